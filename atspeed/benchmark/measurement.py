"""What one method did at one beam width, added up over the requests of a run."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.catalog import ItemCatalog
from atspeed.data import RecommendationData, RequestBatch
from atspeed.decoding import Decoded
from atspeed.metrics import NDCGAtK, Speculation
from atspeed.metrics.ranking import recall_at_k
from atspeed.models import ModelSource, pack_linears

LOWEST_SCORE = -1e8  # below: what ``generate`` fills up with where the catalog has fewer semantic IDs than beams
Answer = dict[tuple[int, ...], float]
"""Codes of the top-K semantic IDs → log-probability, best first."""
AnswerType = TypeVar("AnswerType")


def pick_device(device: str | None) -> torch.device:
    """Return a device; if none is named, a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_packed(source: ModelSource, data: RecommendationData, run_dir: Path, device: torch.device) -> PreTrainedModel:
    """Build a model for the data's catalog on a device, and pack its weights."""
    model: Any = source.build(data.catalog.vocabulary, run_dir)
    return pack_linears(model.to(device))


def time_interleaved(
    methods: Mapping[str, Callable[[RequestBatch], AnswerType]],
    batches: list[RequestBatch],
    num_warmup: int,
    seed: int,
    title: str,
) -> Iterator[tuple[RequestBatch, dict[str, tuple[float, AnswerType]]]]:
    """Send every batch through all methods one after the other, in an order that changes from batch to batch.

    A slow moment of the machine meets all methods so, and what one leaves in the caches serves each of them at times.

    Args:
        methods: name → what answers a batch; it waits for the device.
        batches: requests.
        num_warmup: so many batches come twice; their first time does not count.
        seed: of the order.
        title: of the progress bar.

    Yields:
        each batch, with the wall time in seconds and the answer of each method.
    """
    warmup, order = batches[:num_warmup], random.Random(seed)
    for number, batch in enumerate(track([*warmup, *batches], title, transient=True)):
        done = {}
        for name in order.sample(list(methods), len(methods)):
            start = time.perf_counter()
            answer = methods[name](batch)
            done[name] = time.perf_counter() - start, answer
        if number >= len(warmup):
            yield batch, done


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
    recalls: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ndcg = NDCGAtK(self.num_beams)
        self.speculation = Speculation(self.catalog.num_levels)

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
            self.speculation.to(decoded.accepted.device).update(decoded)
        words = self.catalog.vocabulary.words
        items = [
            [item for sid in answer for item in self.catalog.items([words[code] for code in sid])] for answer in answers
        ]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in items], True, padding_value=-1)
        self.recalls += recall_at_k(padded, truth, self.num_beams).tolist()
        self.ndcg.update(padded, truth)

    def summary(self, reference: "Measurement", plain: "Measurement", strict: bool) -> dict[str, Any]:
        """Return the measured columns of a row; only strict answers are compared with those of ``generate``."""

        def speedup(other: Measurement) -> float:
            return statistics.median(theirs / ours for theirs, ours in zip(other.seconds, self.seconds, strict=True))

        requests = len(self.identical)
        counts: dict[str, float | None] = {}  # generate does not count its calls
        if self.speculation.update_called:
            values = {name: float(value) for name, value in self.speculation.compute().items()}
            counts = {name: None if math.isnan(value) else value for name, value in values.items()}
        by_level = [counts.get(f"acceptance_rate_level_{level}") for level in range(self.catalog.num_levels - 1)]
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
            **{
                name: counts.get(name) for name in ("target_calls", "draft_calls", "accepted_levels", "acceptance_rate")
            },
            "acceptance_by_level": by_level,
            "identical_to_hf": statistics.mean(self.identical) if strict else None,
            "max_score_gap": max(self.score_gaps) if strict else None,
            "recall": statistics.mean(self.recalls),
            "recall_error": statistics.stdev(self.recalls) / requests**0.5 if requests > 1 else None,
            "ndcg": float(self.ndcg.compute()),
        }
