"""The answer to a request, and how it agrees with another one."""

from typing import NamedTuple

from torch import Tensor

LOWEST_SCORE = -1e8  # ``generate`` pads with lower ones where the catalog has fewer semantic IDs than beams
SID = tuple[int, ...]
"""Token ids of a semantic ID's codes."""


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        sids: the top-K semantic IDs, best first.
        scores: their log-probabilities.
    """

    sids: list[SID]
    scores: list[float]


def answers_of(codes: Tensor, scores: Tensor) -> list[Answer]:
    """Return the answers of a batch from codes ``[B, K, L]`` and scores ``[B, K]``, without padding."""
    answers = []
    for sids, values in zip(codes.tolist(), scores.tolist(), strict=True):
        found = [(tuple(sid), score) for sid, score in zip(sids, values, strict=True) if score > LOWEST_SCORE]
        answers.append(Answer([sid for sid, _ in found], [score for _, score in found]))
    return answers


def overlap(answer: Answer, reference: Answer) -> float:
    """Return the share of the reference's semantic IDs that an answer contains, in any order; 1 if it has none.

    >>> overlap(Answer([(5,), (6,)], [-1.0, -2.0]), Answer([(6,), (8,)], [-1.0, -3.0]))
    0.5
    """
    return len({*reference.sids} & {*answer.sids}) / len(reference.sids) if reference.sids else 1.0


def score_gap(answer: Answer, reference: Answer) -> float:
    """Return the largest difference of log-probabilities at the same rank."""
    return max((abs(ours - theirs) for ours, theirs in zip(answer.scores, reference.scores, strict=False)), default=0.0)
