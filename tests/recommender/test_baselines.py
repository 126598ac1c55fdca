from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed.data import AtSpeedLayout, ItemSequences, RecommendationData
from atspeed.metrics import recall_at_k
from atspeed.recommender import TransitionCounts, recommend_popular

# counts: item 1 three, item 0 three, items 2 and 3 one, item 4 none
TRAIN = ItemSequences.from_lists([[0, 1, 2], [0, 1], [3, 1, 0]])


def test_popular_items_come_first_and_ties_by_index() -> None:
    assert recommend_popular(TRAIN.values, 5, 4).tolist() == [0, 1, 2, 3]


def test_followers_are_counted_over_the_last_items_and_filled_up() -> None:
    baseline = TransitionCounts(TRAIN.offsets, TRAIN.values, 5, window=2)
    assert baseline.recommend([0], 5).tolist() == [1, 0, 2, 3, 4]  # 0 → 1 twice
    assert baseline.recommend([3, 1], 2).tolist() == [0, 1]  # 3 → 1, 1 → 2, 1 → 0 once each: the more popular first
    assert baseline.recommend([0, 1], 3).tolist() == [1, 0, 2]  # 0 → 1 twice, 1 → 0 and 1 → 2 once each
    assert baseline.recommend([0, 4, 4], 1).tolist() == [0], "only the last two items count"


@given(
    train=st.lists(st.lists(st.integers(0, 6), max_size=6), min_size=1, max_size=8),
    history=st.lists(st.integers(0, 6), max_size=5),
    k=st.integers(1, 9),
    window=st.integers(1, 4),
)
def test_lists_are_those_of_counting_one_by_one(
    train: list[list[int]], history: list[int], k: int, window: int
) -> None:
    counts = Counter(item for items in train for item in items)
    popular = sorted(range(7), key=lambda item: (-counts[item], item))
    followers = Counter(pair for items in train for pair in pairwise(items))
    scores = Counter[int]()
    for last in history[-window:]:
        scores.update({item: followers[last, item] for item in range(7) if followers[last, item]})
    expected = sorted(range(7), key=lambda item: (-scores[item], popular.index(item)))[:k]
    sequences = ItemSequences.from_lists(train)
    assert recommend_popular(sequences.values, 7, k).tolist() == popular[:k]
    found = TransitionCounts(sequences.offsets, sequences.values, 7, window).recommend(history, k)
    assert found.tolist() == expected
    assert found.dtype == torch.int64


@pytest.mark.slow
def test_beauty_values(beauty: Path) -> None:
    data = RecommendationData(AtSpeedLayout(beauty))
    data.setup()
    train, num_items, requests = data.dataset.train, data.catalog.num_items, data.test_requests()
    truths = [torch.tensor([request.truth]) for request in requests]
    top = recommend_popular(train.values, num_items, 20)
    transitions = TransitionCounts(train.offsets, train.values, num_items)
    popular = torch.cat([recall_at_k(top[None], truth, 20) for truth in truths])
    followers = torch.cat(
        [
            recall_at_k(transitions.recommend(request.history, 20)[None], truth, 20)
            for request, truth in zip(requests, truths, strict=True)
        ]
    )
    assert float(popular.mean()) == pytest.approx(0.0123, abs=2e-4)
    assert float(followers.mean()) == pytest.approx(0.0227, abs=2e-4)
