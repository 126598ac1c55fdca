"""What the benchmark says of a method, as a record of ``benchmark.json``."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from atspeed.benchmark.floor import Floor


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch."""

    median: float
    mean: float
    p90: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Self:
        """Sum up the seconds of batches."""
        return cls(
            median=1000 * statistics.median(seconds),
            mean=1000 * statistics.mean(seconds),
            p90=1000 * float(np.quantile(seconds, 0.9)),
        )


@dataclass(frozen=True)
class MethodRow:
    """A method at one beam width and batch size; None where a column does not apply.

    Attributes:
        method: name of the method.
        drafter: class of the drafter; None for ``transformers.generate``.
        draft_beams: draft width N of a ``ModelDrafter``.
        verification: ``strict``, ``bounded``, ``relaxed`` or ``lossless``; None for ``transformers.generate``.
        temperature: of a sampling verifier.
        epsilon: of ``BoundedTopK``.
        num_beams: beam width K.
        batch_size: requests decoded together.
        requests: requests measured.
        latency_ms: milliseconds per batch.
        requests_per_second: requests over the time of all batches.
        speedup_vs_hf: median, over batches, of the time of ``transformers.generate`` over this method's.
        speedup_vs_plain: the same for plain beam search by this engine.
        total_speedup_vs_hf: time of all batches of ``transformers.generate`` over this method's.
        target_calls: target forward passes per request; None for ``transformers.generate``, which does not count them.
        draft_calls: draft forward passes per request.
        accepted_levels: accepted levels per target call.
        acceptance_rate: accepted levels over drafted levels; None where nothing was drafted.
        acceptance_by_level: the same for each level but the last.
        identical_to_hf: share of requests with the answer of ``transformers.generate``; None for bounded and sampling
            verifiers.
        near_ties: how many of the requests with another answer differ by near-ties only
            (:func:`atspeed.benchmark.near_ties.is_near_tie`); None likewise, and where none may differ: in float32 on a
            CPU.
        max_score_gap: largest difference of log-probabilities at the same rank; None likewise.
        overlap_with_hf: share of the semantic IDs of ``transformers.generate`` that the method returns too, in any
            order; a mean over requests.
        overlap_with_plain: the same for plain beam search, whose answers are those of strict verification.
        exact_share: share of an answer that is certainly that of strict verification, a mean over requests; None
            unless verification is bounded.
        illegal_rate: share of the semantic IDs returned that the catalog does not have.
        duplicate_rate: share of the semantic IDs returned that their answer has already.
        recall: Recall@K over all true items, a mean over users.
        recall_error: standard error of that mean; None for one request.
        recall_difference: mean over users of this method's recall less that of plain beam search.
        recall_difference_interval: half the width of its 95 % confidence interval; None for one request.
        ndcg: NDCG@K, a mean over users.
        ndcg_error: its standard error, as ``recall_error``.
        ndcg_difference: as ``recall_difference``.
        ndcg_difference_interval: as ``recall_difference_interval``.
        phases_ms: milliseconds per batch of each phase; None for points of a curve and ``transformers.generate``.
        trie_target_calls: for a method with a draft, the fewest target calls of a strict ``TrieDrafter`` method.
        execution: class of the execution, ``Eager`` or ``Captured``; the former also where none of the sizes to capture
            fits. None for ``transformers.generate``.
        device_ms: as ``latency_ms``, by CUDA events (:class:`atspeed.benchmark.timing.Took`); None on a CPU.
        target_tokens: tokens in the target's forward passes, per request, padding included; None for
            ``transformers.generate``.
        draft_tokens: the same for the draft.
        peak_memory_gb: most memory on the GPU, 10⁹ bytes: the models, what the method's captures hold, and what a batch
            allocates beyond that; None on a CPU.
        capture_seconds: time to warm up and capture what the method replays at this beam width and batch size; None
            where nothing is captured.
        kernel_ms: milliseconds per profiled batch in which the GPU ran a kernel; None on a CPU, and where no batch is
            profiled.
        floor: the least that its calls take; None for ``transformers.generate`` and where no batch is profiled.
    """

    method: str
    drafter: str | None
    draft_beams: int | None
    verification: str | None
    temperature: float | None
    epsilon: float | None
    num_beams: int
    batch_size: int
    requests: int
    latency_ms: Latency
    requests_per_second: float
    speedup_vs_hf: float
    speedup_vs_plain: float
    total_speedup_vs_hf: float
    target_calls: float | None
    draft_calls: float | None
    accepted_levels: float | None
    acceptance_rate: float | None
    acceptance_by_level: tuple[float | None, ...]
    identical_to_hf: float | None
    near_ties: int | None
    max_score_gap: float | None
    overlap_with_hf: float
    overlap_with_plain: float
    exact_share: float | None
    illegal_rate: float
    duplicate_rate: float
    recall: float
    recall_error: float | None
    recall_difference: float
    recall_difference_interval: float | None
    ndcg: float
    ndcg_error: float | None
    ndcg_difference: float
    ndcg_difference_interval: float | None
    phases_ms: dict[str, float] | None
    trie_target_calls: float | None
    execution: str | None
    device_ms: Latency | None
    target_tokens: float | None
    draft_tokens: float | None
    peak_memory_gb: float | None
    capture_seconds: float | None
    kernel_ms: float | None
    floor: Floor | None
