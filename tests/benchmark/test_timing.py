import itertools
import statistics

import pytest

from atspeed.benchmark.timing import median_interval


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
