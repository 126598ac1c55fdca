"""What the calls of a method take at least: reading the weights, and the bare forward passes over the same tokens."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from atspeed.benchmark.prediction import BatchCalls
from atspeed.decoding.cost import BareCalls

GPU_COPY_BYTES = 1 << 30
LEAST_CPU_COPY_BYTES = 1 << 26
COPIES = 5


@dataclass(frozen=True)
class Floor:
    """The least that the calls of a method take, in milliseconds per batch; means over the profiled batches.

    Attributes:
        latency_ms: wall time of the method for the same batches.
        weights_ms: one read of the weights for each call, of target and draft, at the speed of a large copy.
        target_ms: the target's forward passes by themselves, over as many tokens after as many slots.
        draft_ms: the draft's; 0 without a draft.
    """

    latency_ms: float
    weights_ms: float
    target_ms: float
    draft_ms: float

    @property
    def engine_share(self) -> float:
        """Share of the wall time that is not in the bare forward passes."""
        return 1 - (self.target_ms + self.draft_ms) / self.latency_ms


class FloorMeter:
    """Measures the floor under what methods took.

    Args:
        target: as it is used, packed or not.
        draft: the same, if there is one.
        target_bytes: of the target's weights that a call reads.
        draft_bytes: of the draft's.

    Attributes:
        bandwidth: bytes per second, read and written, of a large copy on the device.
        target_calls: seconds of the target's forward passes by themselves.
        draft_calls: of the draft's, if there is one.
    """

    def __init__(
        self, target: PreTrainedModel, draft: PreTrainedModel | None, target_bytes: int, draft_bytes: int
    ) -> None:
        self.bandwidth = copy_bandwidth(target.device)
        self.target_calls, self.draft_calls = BareCalls(target), BareCalls(draft) if draft is not None else None
        self._target_bytes, self._draft_bytes = target_bytes, draft_bytes

    def floor(self, calls: Sequence[BatchCalls], seconds: Sequence[float]) -> Floor:
        """Return the floor of batches.

        Args:
            calls: the calls that answered each batch.
            seconds: wall time of each batch.
        """
        read = [len(batch.target) * self._target_bytes + len(batch.draft) * self._draft_bytes for batch in calls]
        draft = self.draft_calls
        return Floor(
            latency_ms=1000 * statistics.mean(seconds),
            weights_ms=1000 * statistics.mean(read) / self.bandwidth,
            target_ms=1000 * statistics.mean(sum(map(self.target_calls, batch.target)) for batch in calls),
            draft_ms=1000 * statistics.mean(sum(map(draft, batch.draft)) for batch in calls) if draft else 0.0,
        )


def weight_bytes(model: PreTrainedModel) -> int:
    """Return the bytes of the weights that every call reads, before they are packed, which hides them.

    An input embedding that is not the head as well is only looked up, and not counted.
    """
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    looked_up = 0 if head.weight is embedding.weight else embedding.weight.nbytes
    return sum(weight.nbytes for weight in model.parameters()) - looked_up


def copy_bandwidth(device: torch.device, num_bytes: int | None = None) -> float:
    """Return the bytes per second of a large copy from memory to memory, those read and those written; the best of 5.

    Args:
        device: where.
        num_bytes: of the copy; by default 1 GiB on a GPU, on a CPU 4 times its last-level cache.
    """
    size = num_bytes or (GPU_COPY_BYTES if device.type == "cuda" else max(4 * _cache_bytes(), LEAST_CPU_COPY_BYTES))
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    copied = torch.zeros_like(source)  # touched, so that its pages exist

    def copy() -> object:
        return copied.copy_(source)

    seconds = min((_seconds_on_gpu if device.type == "cuda" else _seconds)(copy) for _ in range(COPIES))
    return 2 * size / seconds


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _seconds_on_gpu(function: Callable[[], object]) -> float:
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    function()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last) / 1000


def _cache_bytes() -> int:
    """Return the bytes of the first processor's largest cache, as far as the system tells; else 0."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(file.read_text().strip().removesuffix("K")) << 10 for file in caches), default=0)
