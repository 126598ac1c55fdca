"""Errors as RFC 9457 problem details."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
ONE, MANY = "one request", "many requests"
"""Tags of the two forms of a body, which stand in the locations of its errors."""


class ProblemError(Exception):
    """An error that a client is told about.

    Args:
        status: HTTP status.
        detail: what is wrong with this request, and what to do about it.
        errors: where in the body: ``pointer`` (RFC 6901) and ``detail`` of each.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = (), retry_after: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.retry_after = retry_after

    @staticmethod
    def title_of(status: int) -> str:
        """Return what a status is called."""
        return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Client Closed Request"


class ProblemResponse(Response):
    """A problem as a response.

    Args:
        problem: the problem.
        headers: more headers of the response.
    """

    media_type = MEDIA_TYPE

    def __init__(self, problem: ProblemError, headers: Mapping[str, str] | None = None) -> None:
        content: dict[str, Any] = {
            "type": "about:blank",
            "title": ProblemError.title_of(problem.status),
            "status": problem.status,
            "detail": problem.detail,
        }
        if problem.errors:
            content["errors"] = list(problem.errors)
        all_headers = dict(headers or {})
        if problem.retry_after is not None:
            all_headers["Retry-After"] = str(problem.retry_after)
        # ASCII: a text of a client may hold what UTF-8 cannot, such as half of a surrogate pair
        super().__init__(json.dumps(content).encode("ascii"), problem.status, all_headers)


async def on_problem(_: Request, error: Exception) -> Response:
    """Answer a :class:`ProblemError`."""
    assert isinstance(error, ProblemError)
    return ProblemResponse(error)


async def on_http_exception(_: Request, error: Exception) -> Response:
    """Answer an error of the framework, such as 404 or 405."""
    assert isinstance(error, HTTPException)
    return ProblemResponse(ProblemError(error.status_code, str(error.detail)), error.headers)


async def on_invalid_body(_: Request, error: Exception) -> Response:
    """Answer a body, path or query that is not as the schema says."""
    assert isinstance(error, RequestValidationError)
    errors = [{"pointer": _pointer(each["loc"]), "detail": str(each["msg"])} for each in error.errors()]
    return ProblemResponse(ProblemError(422, "the request is not as the schema says (GET /openapi.json)", errors[:20]))


def _pointer(location: Sequence[str | int]) -> str:
    """Return a JSON pointer into the body, or the name of a parameter.

    >>> _pointer(("body", "requests", 0, "k"))
    '/requests/0/k'
    """
    parts = [part for part in location if part not in ("body", ONE, MANY)]
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
