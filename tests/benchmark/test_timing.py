import itertools
import statistics

import pytest
import torch

from atspeed.benchmark.timing import Took, median_interval, take_time
from atspeed.data import RequestBatch

BATCH = RequestBatch(*torch.zeros(7, 1, 1))


def test_on_a_cpu_there_is_wall_time_only() -> None:
    took, answer = take_time(lambda batch: batch, BATCH, torch.device("cpu"))
    assert answer is BATCH
    assert took == Took(took.seconds, None, None)
    assert 0 < took.seconds < 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_events_and_the_largest_extra_memory_are_taken_too() -> None:
    values, size = torch.rand(4096, 4096, device="cuda"), 4 * 4096**2
    took, _ = take_time(lambda _: (values @ values).sum(), BATCH, values.device)
    assert took.device_seconds is not None
    assert took.extra_bytes is not None
    assert 0 < took.device_seconds <= took.seconds * 1.1
    assert size <= took.extra_bytes < 4 * size


@pytest.mark.parametrize("count", [6, 7, 9, 12])
def test_the_interval_misses_the_median_in_one_of_twenty_cases_at_the_most(count: int) -> None:
    """All ways in which values fall below and above the true median, 0, are equally likely."""

    def missed(margin: int) -> float:
        cases = list(itertools.product((-1, 1), repeat=count))
        intervals = [(sorted(case)[margin], sorted(case)[-1 - margin]) for case in cases]
        return statistics.mean(low > 0 or high < 0 for low, high in intervals)

    values = [float(value) for value in range(count)]
    low, high = median_interval(values)
    margin = int(low)
    assert high == count - 1 - margin
    assert missed(margin) <= 0.05 < missed(margin + 1)
    with pytest.raises(ValueError, match="expected 6 or more"):
        median_interval(values[:5])
