"""From the JSON of requests to answers, and back."""

import asyncio
from collections.abc import Sequence
from typing import Any

from atspeed.recommender import Recommender, Request
from atspeed.serving.batcher import Answered
from atspeed.serving.item_lookup import summary
from atspeed.serving.problems import ProblemError
from atspeed.serving.schemas import RecommendationRequest
from atspeed.serving.service_settings import ServiceSettings

SAMPLING = ("relaxed", "lossless")


def check_sizes(asked: Sequence[RecommendationRequest], settings: ServiceSettings) -> None:
    """Refuse more than the service takes.

    Raises:
        ProblemError: 422, with all that is too long.
    """
    errors = []
    if len(asked) > settings.max_requests:
        errors.append({"pointer": "/requests", "detail": f"{len(asked)} requests; at most {settings.max_requests}"})
    for row, each in enumerate(asked):
        limits = (("history", settings.max_history), ("allow", settings.max_listed), ("deny", settings.max_listed))
        for name, limit in limits:
            count = len(getattr(each, name) or ())
            if count > limit:
                errors.append({"pointer": f"{_at(row, asked)}/{name}", "detail": f"{count} items; at most {limit}"})
        count = sum(map(len, each.where.values()))
        if count > settings.max_listed:
            detail = f"{count} values; at most {settings.max_listed}"
            errors.append({"pointer": f"{_at(row, asked)}/where", "detail": detail})
    if errors:
        raise ProblemError(422, "the request is larger than this service takes", errors[:20])


async def checked(recommender: Recommender, asked: Sequence[RecommendationRequest]) -> list[Request]:
    """Return requests that can be answered.

    Raises:
        ProblemError: 422 if one names an unknown item, or a value that the bundle does not allow.
    """
    requests = []
    for row, each in enumerate(asked):
        filtered = each.allow is not None or each.deny or each.where
        try:  # a mask of a large catalog takes milliseconds, in which others are to be heard
            request = await asyncio.to_thread(_check, recommender, each) if filtered else _check(recommender, each)
        except ValueError as error:
            raise ProblemError(422, str(error), [{"pointer": _at(row, asked), "detail": str(error)}]) from error
        requests.append(request)
    return requests


def _check(recommender: Recommender, asked: RecommendationRequest) -> Request:
    return recommender.request(
        asked.history,
        asked.k,
        exclude_seen=asked.exclude_seen,
        allow=asked.allow,
        deny=asked.deny,
        where=asked.where,
        verification=asked.verification,
        speculation=asked.speculation,
        seed=asked.seed,
        skip_unknown_items=asked.skip_unknown_items,
    )


def _at(row: int, asked: Sequence[RecommendationRequest]) -> str:
    return f"/requests/{row}" if len(asked) > 1 else ""


def answer_json(request: Request, answered: Answered) -> dict[str, Any]:
    """Return an answer as :class:`atspeed.serving.schemas.RecommendationAnswer` describes it."""
    answer, served = answered.answer, request.served
    verification = request.method.verification
    return {
        "recommendations": [
            {
                "items": [vars(summary(served, name)) for name in each.items],
                "sid": each.sid,
                "score": each.score,
            }
            for each in answer.recommended
        ],
        "target_calls": answer.target_calls,
        "draft_calls": answer.draft_calls,
        "accepted_levels": answer.accepted_levels,
        "source": "model" if request.history else "popularity",
        "verification": verification,
        "seed": request.seed if verification in SAMPLING else None,
        "catalog_version": served.version,
        "skipped_items": request.skipped,
        "wait_ms": round(1000 * answered.wait_seconds, 3),
        "decode_ms": round(1000 * answered.decode_seconds, 3),
        "batch_size": answered.batch_size,
    }
