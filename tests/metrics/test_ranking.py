"""Ranking metrics against brute force."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.metrics import (
    CatalogCoverage,
    RecallAtK,
    catalog_coverage,
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
)

NUM_ITEMS = 13
items = st.integers(0, NUM_ITEMS - 1)
requests = st.lists(
    st.tuples(st.lists(items, max_size=8), st.lists(items, min_size=1, max_size=6)), min_size=1, max_size=5
)  # lists with duplicates


def pad(lists: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(values, dtype=torch.long) for values in lists], batch_first=True, padding_value=-1
    )


def hit_ranks(shown: list[int], true: set[int], k: int) -> list[int]:
    """The ranks (from 1) at which a true item stands for the first time."""
    return [rank for rank, item in enumerate(shown[:k], 1) if item in true and item not in shown[: rank - 1]]


def ndcg(shown: list[int], truth: list[int], k: int) -> float:
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(set(truth))) + 1))
    return sum(1 / math.log2(rank + 1) for rank in hit_ranks(shown, set(truth), k)) / ideal


BRUTE_FORCE: dict[str, tuple[Callable, Callable[[list[int], list[int], int], float]]] = {
    "recall over all true items": (
        recall_at_k,
        lambda shown, truth, k: len(set(shown[:k]) & set(truth)) / len(set(truth)),
    ),
    "recall over the reachable ones": (
        lambda *arguments: recall_at_k(*arguments, over="reachable"),
        lambda shown, truth, k: len(set(shown[:k]) & set(truth)) / min(k, len(set(truth))),
    ),
    "hit rate": (hit_rate_at_k, lambda shown, truth, k: float(any(item in truth for item in shown[:k]))),
    "hit rate of the next item": (
        lambda *arguments: hit_rate_at_k(*arguments, targets="next"),
        lambda shown, truth, k: float(truth[0] in shown[:k]),
    ),
    "ndcg": (ndcg_at_k, ndcg),
    "mrr": (mrr_at_k, lambda shown, truth, k: max((1 / rank for rank in hit_ranks(shown, set(truth), k)), default=0)),
}


@pytest.mark.parametrize("name", BRUTE_FORCE)
@settings(deadline=None, max_examples=60)
@given(cases=requests, k=st.integers(1, 10))
def test_values_equal_brute_force(name: str, cases: list[tuple[list[int], list[int]]], k: int) -> None:
    metric, brute_force = BRUTE_FORCE[name]
    values = metric(pad([shown for shown, _ in cases]), pad([truth for _, truth in cases]), k)
    assert values.tolist() == pytest.approx([brute_force(shown, truth, k) for shown, truth in cases], abs=1e-6)


@pytest.mark.parametrize("name", BRUTE_FORCE)
def test_a_request_without_a_true_item_has_no_value(name: str) -> None:
    values = BRUTE_FORCE[name][0](torch.tensor([[1, -1], [1, -1]]), torch.tensor([[-1], [1]]), 2)
    assert values[0].isnan()
    assert values[1] == 1


@settings(deadline=None, max_examples=60)
@given(cases=requests, k=st.integers(1, 10))
def test_catalog_coverage_equals_brute_force(cases: list[tuple[list[int], list[int]]], k: int) -> None:
    lists = [shown for shown, _ in cases]
    expected = pytest.approx(len({item for shown in lists for item in shown[:k]}) / NUM_ITEMS)
    assert float(catalog_coverage(pad(lists), NUM_ITEMS, k)) == expected
    metric = CatalogCoverage(NUM_ITEMS, k)
    for shown in lists:
        metric.update(pad([shown]))
    assert float(metric.compute()) == expected


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        RecallAtK(0)
    with pytest.raises(ValueError, match="k is 0"):
        CatalogCoverage(5, 0)
