"""Times of several methods side by side: how they are measured, and what may be said of their ratios."""

import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from rich.progress import track

from atspeed.data import RequestBatch

FEWEST_VALUES = 6  # fewer have no 95 % interval of their median
AnswerType = TypeVar("AnswerType")


class Took(NamedTuple):
    """What an answer took.

    Attributes:
        seconds: wall time, from the call until the device has finished.
        device_seconds: time between two CUDA events, before the call and behind its last kernel; None on a CPU. What
            the process does after the last kernel is not in it.
        extra_bytes: the most memory on the GPU, beyond what was allocated before; None on a CPU.
    """

    seconds: float
    device_seconds: float | None = None
    extra_bytes: int | None = None


def take_time(
    method: Callable[[RequestBatch], AnswerType], batch: RequestBatch, device: torch.device
) -> tuple[Took, AnswerType]:
    """Return what a method's answer to a batch took, and the answer.

    Args:
        method: answers a batch; it need not wait for the device.
        batch: the requests.
        device: where it is answered.
    """
    if device.type != "cuda":
        start = time.perf_counter()
        answer = method(batch)
        return Took(time.perf_counter() - start), answer
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.perf_counter()
    first.record()
    answer = method(batch)
    last.record()
    torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    extra = torch.cuda.max_memory_allocated(device) - before
    return Took(seconds, first.elapsed_time(last) / 1000, extra), answer


def time_interleaved(
    methods: Mapping[str, Callable[[RequestBatch], AnswerType]],
    batches: list[RequestBatch],
    num_warmup: int,
    seed: int,
    title: str,
    device: torch.device,
) -> Iterator[tuple[RequestBatch, dict[str, tuple[Took, AnswerType]]]]:
    """Send every batch through all methods one after the other, in a random order that changes from batch to batch.

    So a slow moment of the machine affects all methods, and none always profits from the caches that another leaves.

    Args:
        methods: name → function that answers a batch; it need not wait for the device.
        batches: requests.
        num_warmup: number of first batches that are answered once more beforehand, without being measured.
        seed: of the order.
        title: of the progress bar.
        device: where they answer.

    Yields:
        each batch, with what each method took and its answer.
    """
    warmup, order = batches[:num_warmup], random.Random(seed)
    for number, batch in enumerate(track([*warmup, *batches], title, transient=True)):
        names = order.sample(list(methods), len(methods))
        done = {name: take_time(methods[name], batch, device) for name in names}
        if number >= len(warmup):
            yield batch, done


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratios of two methods' wall times, batch by batch."""
    return [ours / theirs for ours, theirs in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of :func:`ratios`, which a few slow moments of the machine do not change.

    >>> median_ratio([4.0, 6.0, 9.0], [2.0, 2.0, 1.0])
    3.0
    """
    return statistics.median(ratios(numerators, denominators))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median that goes with the sign test; exact for any distribution.

    >>> median_interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 9.0])
    (1.1, 1.7)

    Raises:
        ValueError: with fewer than six values, which have no such interval.
    """
    count, left_out, tail = len(values), 0, 0.5 ** len(values)
    while tail <= 0.025:  # the chance that so few values lie below the median
        left_out += 1
        tail += math.comb(count, left_out) / 2**count
    if left_out == 0:
        raise ValueError(f"{count} values have no 95 % interval of their median; expected {FEWEST_VALUES} or more")
    ordered = sorted(values)
    return ordered[left_out - 1], ordered[-left_out]
