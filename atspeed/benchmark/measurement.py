"""What one method did at one beam width and batch size, added up over the batches of a run."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from atspeed.benchmark.agreement import SID, Answer, overlap, score_gap
from atspeed.benchmark.method import Method
from atspeed.benchmark.method_row import Latency, MethodRow
from atspeed.benchmark.prediction import BatchCalls
from atspeed.benchmark.timing import Took, median_ratio
from atspeed.decoding import BoundedTopK, Decoded, StrictTopK
from atspeed.decoding.cost import CallShape
from atspeed.metrics import Speculation, exact_share, ndcg_at_k, recall_at_k

ItemsOf = dict[SID, list[int]]
"""Token ids of a semantic ID, and of what closes it → indices of the items that share it."""


def items_by_tokens(sids: Tensor) -> ItemsOf:
    """Return the items of each semantic ID.

    Args:
        sids: token ids of the items' semantic IDs and what closes them, ``[num_items, D]``, int64.

    >>> items_by_tokens(torch.tensor([[7, 8], [7, 9], [7, 8]]))
    {(7, 8): [0, 2], (7, 9): [1]}
    """
    items: ItemsOf = {}
    for item, codes in enumerate(sids.tolist()):
        items.setdefault(tuple(codes), []).append(item)
    return items


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean; None for one value."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of the differences user by user, and half the width of its 95 % interval; None for one user.

    >>> paired_difference([1.0, 0.5, 0.0], [0.0, 0.5, 0.0])
    (0.3333333333333333, 0.6533333333333333)
    """
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    error = standard_error(differences)
    return statistics.mean(differences), None if error is None else 1.96 * error


@dataclass
class Measurement:
    """What one method did at one beam width and batch size.

    Args:
        name: of the method.
        method: drafter and verifier; None for ``transformers.generate``.
        items_of: the catalog's items by the tokens of their semantic ID; see :func:`items_by_tokens`.
        num_levels: codes of a semantic ID, L.
        num_beams: the beam width K; recall and NDCG are at K.
        batch_size: requests decoded together.
    """

    name: str
    method: Method | None
    items_of: ItemsOf
    num_levels: int
    num_beams: int
    batch_size: int
    took: list[Took] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    ndcgs: list[float] = field(default_factory=list)
    exact_shares: list[float] = field(default_factory=list)
    calls: list[BatchCalls] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.speculation = Speculation(self.num_levels)

    @property
    def seconds(self) -> list[float]:
        """Wall time of each batch."""
        return [took.seconds for took in self.took]

    @property
    def extra_bytes(self) -> int | None:
        """The most memory on the GPU beyond what was allocated before; None on a CPU."""
        known = [took.extra_bytes for took in self.took if took.extra_bytes is not None]
        return max(known, default=None)

    def add(self, took: Took, answers: list[Answer], decoded: Decoded | None, truth: Tensor) -> None:
        """Add a batch.

        Args:
            took: what it took.
            answers: the method's.
            decoded: what speculation did; None for ``transformers.generate``.
            truth: the true items, padded with -1, ``[B, R]``, int64, on the CPU.
        """
        self.took.append(took)
        self.answers += answers
        if decoded is not None:
            self.calls.append(BatchCalls(decoded.target_shapes, decoded.draft_shapes))
            self.speculation.to(decoded.accepted.device).update(
                decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted
            )
            self.exact_shares += exact_share(decoded.leaves, decoded.num_exact).tolist()
        items = [[item for sid in answer.sids for item in self.items_of.get(sid, [])] for answer in answers]
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in items], True, padding_value=-1)
        self.recalls += recall_at_k(padded, truth, self.num_beams).tolist()
        self.ndcgs += ndcg_at_k(padded, truth, self.num_beams).tolist()

    def row(self, reference: "Measurement", plain: "Measurement") -> MethodRow:
        """Return the row of the method, with what is measured apart from its answers left to fill in.

        Args:
            reference: the measurement of ``transformers.generate``, with the same batches.
            plain: that of plain beam search.
        """
        drafter, verifier = (self.method.drafter, self.method.verifier) if self.method else (None, None)
        strict = verifier is None or isinstance(verifier, StrictTopK)  # others may differ, and are not compared
        requests = len(self.answers)
        pairs = list(zip(self.answers, reference.answers, strict=True))
        returned = [sid for answer in self.answers for sid in answer.sids]
        num_distinct = sum(len({*answer.sids}) for answer in self.answers)
        recall_difference = paired_difference(self.recalls, plain.recalls)
        ndcg_difference = paired_difference(self.ndcgs, plain.ndcgs)
        counts: dict[str, float | None] = {}  # generate does not count its calls
        if self.speculation.update_called:
            values = {name: float(value) for name, value in self.speculation.compute().items()}
            counts = {name: None if math.isnan(value) else value for name, value in values.items()}
        levels = range(self.num_levels - 1)
        device_seconds = [took.device_seconds for took in self.took if took.device_seconds is not None]
        return MethodRow(
            method=self.name,
            drafter=type(drafter).__name__ if drafter else None,
            draft_beams=getattr(drafter, "draft_beams", None),
            verification=verifier.name if verifier else None,
            temperature=getattr(verifier, "temperature", None),
            epsilon=getattr(verifier, "epsilon", None),
            num_beams=self.num_beams,
            batch_size=self.batch_size,
            requests=requests,
            latency_ms=Latency.of(self.seconds),
            requests_per_second=requests / sum(self.seconds),
            speedup_vs_hf=median_ratio(reference.seconds, self.seconds),
            speedup_vs_plain=median_ratio(plain.seconds, self.seconds),
            total_speedup_vs_hf=sum(reference.seconds) / sum(self.seconds),
            target_calls=counts.get("target_calls"),
            draft_calls=counts.get("draft_calls"),
            accepted_levels=counts.get("accepted_levels"),
            acceptance_rate=counts.get("acceptance_rate"),
            acceptance_by_level=tuple(counts.get(f"acceptance_rate_level_{level}") for level in levels),
            identical_to_hf=statistics.mean(ours.sids == theirs.sids for ours, theirs in pairs) if strict else None,
            near_ties=None,
            max_score_gap=max(score_gap(*pair) for pair in pairs) if strict else None,
            overlap_with_hf=statistics.mean(overlap(*pair) for pair in pairs),
            overlap_with_plain=statistics.mean(map(overlap, self.answers, plain.answers)),
            exact_share=statistics.mean(self.exact_shares) if isinstance(verifier, BoundedTopK) else None,
            illegal_rate=sum(sid not in self.items_of for sid in returned) / max(1, len(returned)),
            duplicate_rate=1 - num_distinct / max(1, len(returned)),
            recall=statistics.mean(self.recalls),
            recall_error=standard_error(self.recalls),
            recall_difference=recall_difference[0],
            recall_difference_interval=recall_difference[1],
            ndcg=statistics.mean(self.ndcgs),
            ndcg_error=standard_error(self.ndcgs),
            ndcg_difference=ndcg_difference[0],
            ndcg_difference_interval=ndcg_difference[1],
            phases_ms=None,
            trie_target_calls=None,
            execution=type(self.method.execution).__name__ if self.method else None,
            device_ms=Latency.of(device_seconds) if device_seconds else None,
            target_tokens=_total_tokens(batch.target for batch in self.calls) / requests if self.calls else None,
            draft_tokens=_total_tokens(batch.draft for batch in self.calls) / requests if self.calls else None,
            peak_memory_gb=None,
            capture_seconds=None,
            kernel_ms=None,
            floor=None,
        )


def _total_tokens(batches: Iterable[Sequence[CallShape]]) -> int:
    return sum(shape.total_tokens for calls in batches for shape in calls)
