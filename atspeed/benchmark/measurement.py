"""What one method did at one beam width, added up over the requests of a run."""

import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from atspeed.data import ItemCatalog
from atspeed.decoding import Decoded
from atspeed.metrics import NDCGAtK, RecallAtK

LOWEST_SCORE = -1e8  # below: what ``generate`` fills up with where the catalog has fewer semantic IDs than beams
Answer = dict[tuple[int, ...], float]
"""Codes of the top-K semantic IDs → log-probability, best first."""


def answers_of(codes: Tensor, scores: Tensor) -> list[Answer]:
    """Return the answers of a batch from codes ``[B, K, L]`` and scores ``[B, K]``, without what only fills up."""
    rows = zip(codes.tolist(), scores.tolist(), strict=True)
    return [
        {tuple(sid): score for sid, score in zip(sids, row, strict=True) if score > LOWEST_SCORE} for sids, row in rows
    ]


@dataclass
class Measurement:
    """What one method did at one beam width.

    Args:
        catalog: the items.
        num_beams: the beam width K; recall and NDCG are at K.
    """

    catalog: ItemCatalog
    num_beams: int
    seconds: list[float] = field(default_factory=list)
    identical: list[bool] = field(default_factory=list)
    score_gaps: list[float] = field(default_factory=list)
    target_calls: int = 0
    draft_calls: int = 0
    accepted_levels: int = 0
    drafted_levels: int = 0

    def __post_init__(self) -> None:
        self.recall, self.ndcg = RecallAtK(self.num_beams), NDCGAtK(self.num_beams)

    def add(
        self, seconds: float, answers: list[Answer], expected: list[Answer], decoded: Decoded | None, truth: Tensor
    ) -> None:
        """Add a batch: its wall time, its answers and those of ``generate``, what speculation did, the true items."""
        self.seconds.append(seconds)
        for answer, reference in zip(answers, expected, strict=True):
            self.identical.append(list(answer) == list(reference))
            pairs = zip(answer.values(), reference.values(), strict=False)
            self.score_gaps.append(max((abs(ours - theirs) for ours, theirs in pairs), default=0.0))
        if decoded is not None:
            self.target_calls += int(decoded.target_calls.sum())
            self.draft_calls += int(decoded.draft_calls.sum())
            self.accepted_levels += int(decoded.accepted_levels.sum())
            self.drafted_levels += int(decoded.drafted_levels.sum())
        words = self.catalog.vocabulary.words
        items = [
            [item for sid in answer for item in self.catalog.items([words[code] for code in sid])] for answer in answers
        ]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in items], True, padding_value=-1)
        for metric in (self.recall, self.ndcg):
            metric.update(padded, truth)

    def summary(self, reference: "Measurement", plain: "Measurement", strict: bool) -> dict[str, Any]:
        """Return the measured columns of a row; only strict answers are compared with those of ``generate``."""

        def speedup(other: Measurement) -> float:
            return statistics.median(theirs / ours for theirs, ours in zip(other.seconds, self.seconds, strict=True))

        counted, requests = self.target_calls > 0, len(self.identical)  # generate does not count its calls
        return {
            "latency_ms": {
                "median": 1000 * statistics.median(self.seconds),
                "mean": 1000 * statistics.mean(self.seconds),
                "p90": 1000 * float(torch.tensor(self.seconds, dtype=torch.float64).quantile(0.9)),
            },
            "requests_per_second": requests / sum(self.seconds),
            "speedup_vs_hf": speedup(reference),
            "speedup_vs_plain": speedup(plain),
            "total_speedup_vs_hf": sum(reference.seconds) / sum(self.seconds),
            "target_calls": self.target_calls / requests if counted else None,
            "draft_calls": self.draft_calls / requests if counted else None,
            "accepted_levels": self.accepted_levels / self.target_calls if counted else None,
            "acceptance_rate": self.accepted_levels / self.drafted_levels if self.drafted_levels else None,
            "identical_to_hf": statistics.mean(self.identical) if strict else None,
            "max_score_gap": max(self.score_gaps) if strict else None,
            "recall": float(self.recall.compute()),
            "ndcg": float(self.ndcg.compute()),
        }
