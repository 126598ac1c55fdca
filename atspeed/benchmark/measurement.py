"""What one method did at one beam width and batch size, added up over the batches of a run."""

import math
import statistics
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atspeed.benchmark.method import Method
from atspeed.benchmark.prediction import BatchCalls
from atspeed.benchmark.rows import Latency, MethodRow
from atspeed.benchmark.timing import median_ratio
from atspeed.decoding import Decoded, StrictTopK
from atspeed.metrics import NDCGAtK, Speculation
from atspeed.metrics.ranking import recall_at_k

LOWEST_SCORE = -1e8  # ``generate`` pads with lower ones where the catalog has fewer semantic IDs than beams
Answer = dict[tuple[int, ...], float]
"""Codes of the top-K semantic IDs → log-probability, best first."""
ItemsOf = dict[tuple[int, ...], list[int]]
"""Codes of a semantic ID → indices of the items that share it."""


def items_by_codes(sids: Tensor) -> ItemsOf:
    """Return the items of each semantic ID.

    Args:
        sids: token ids of the items' codes, ``[num_items, L]``, int64.

    >>> items_by_codes(torch.tensor([[7, 8], [7, 9], [7, 8]]))
    {(7, 8): [0, 2], (7, 9): [1]}
    """
    items: ItemsOf = {}
    for item, codes in enumerate(sids.tolist()):
        items.setdefault(tuple(codes), []).append(item)
    return items


def answers_of(codes: Tensor, scores: Tensor) -> list[Answer]:
    """Return the answers of a batch from codes ``[B, K, L]`` and scores ``[B, K]``, without padding."""
    rows = zip(codes.tolist(), scores.tolist(), strict=True)
    return [
        {tuple(sid): score for sid, score in zip(sids, row, strict=True) if score > LOWEST_SCORE} for sids, row in rows
    ]


@dataclass
class Measurement:
    """What one method did at one beam width and batch size.

    Args:
        name: of the method.
        method: drafter and verifier; None for ``transformers.generate``.
        items_of: the catalog's items by the codes of their semantic ID; see :func:`items_by_codes`.
        num_beams: the beam width K; recall and NDCG are at K.
        batch_size: requests decoded together.
    """

    name: str
    method: Method | None
    items_of: ItemsOf
    num_beams: int
    batch_size: int
    seconds: list[float] = field(default_factory=list)
    identical: list[bool] = field(default_factory=list)
    score_gaps: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    calls: list[BatchCalls] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_levels = len(next(iter(self.items_of)))
        self.ndcg = NDCGAtK(self.num_beams)
        self.speculation = Speculation(self.num_levels)

    def add(
        self, seconds: float, answers: list[Answer], expected: list[Answer], decoded: Decoded | None, truth: Tensor
    ) -> None:
        """Add a batch.

        Args:
            seconds: its wall time.
            answers: the method's.
            expected: those of ``transformers.generate``.
            decoded: what speculation did; None for ``transformers.generate``.
            truth: the true items, padded with -1, ``[B, R]``, int64, on the CPU.
        """
        self.seconds.append(seconds)
        for answer, reference in zip(answers, expected, strict=True):
            self.identical.append(list(answer) == list(reference))
            pairs = zip(answer.values(), reference.values(), strict=False)
            self.score_gaps.append(max((abs(ours - theirs) for ours, theirs in pairs), default=0.0))
        if decoded is not None:
            self.calls.append(BatchCalls(decoded.target_shapes, decoded.draft_shapes))
            self.speculation.to(decoded.accepted.device).update(
                decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted
            )
        items = [[item for sid in answer for item in self.items_of[sid]] for answer in answers]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in items], True, padding_value=-1)
        self.recalls += recall_at_k(padded, truth, self.num_beams).tolist()
        self.ndcg.update(padded, truth)

    def row(self, reference: "Measurement", plain: "Measurement", phases_ms: dict[str, float] | None) -> MethodRow:
        """Return the row of the method, with ``trie_target_calls`` left to fill in from other methods' rows.

        Args:
            reference: the measurement of ``transformers.generate``, with the same batches.
            plain: that of plain beam search.
            phases_ms: milliseconds per batch of each phase, if they were measured.
        """
        drafter, verifier = (self.method.drafter, self.method.verifier) if self.method else (None, None)
        strict = verifier is None or isinstance(verifier, StrictTopK)  # others may differ, and are not compared
        requests = len(self.identical)
        counts: dict[str, float | None] = {}  # generate does not count its calls
        if self.speculation.update_called:
            values = {name: float(value) for name, value in self.speculation.compute().items()}
            counts = {name: None if math.isnan(value) else value for name, value in values.items()}
        levels = range(self.num_levels - 1)
        return MethodRow(
            method=self.name,
            drafter=type(drafter).__name__ if drafter else None,
            draft_beams=getattr(drafter, "draft_beams", None),
            verification=verifier.name if verifier else None,
            temperature=getattr(verifier, "temperature", None),
            num_beams=self.num_beams,
            batch_size=self.batch_size,
            requests=requests,
            latency_ms=Latency(
                median=1000 * statistics.median(self.seconds),
                mean=1000 * statistics.mean(self.seconds),
                p90=1000 * float(torch.tensor(self.seconds, dtype=torch.float64).quantile(0.9)),
            ),
            requests_per_second=requests / sum(self.seconds),
            speedup_vs_hf=median_ratio(reference.seconds, self.seconds),
            speedup_vs_plain=median_ratio(plain.seconds, self.seconds),
            total_speedup_vs_hf=sum(reference.seconds) / sum(self.seconds),
            target_calls=counts.get("target_calls"),
            draft_calls=counts.get("draft_calls"),
            accepted_levels=counts.get("accepted_levels"),
            acceptance_rate=counts.get("acceptance_rate"),
            acceptance_by_level=tuple(counts.get(f"acceptance_rate_level_{level}") for level in levels),
            identical_to_hf=statistics.mean(self.identical) if strict else None,
            max_score_gap=max(self.score_gaps) if strict else None,
            recall=statistics.mean(self.recalls),
            recall_error=statistics.stdev(self.recalls) / requests**0.5 if requests > 1 else None,
            ndcg=float(self.ndcg.compute()),
            phases_ms=phases_ms,
            trie_target_calls=None,
        )
