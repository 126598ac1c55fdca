from pathlib import Path

import pytest
import torch

from atspeed.data import AtSpeedLayout, RecommendationData
from atspeed.metrics import recall_at_k
from atspeed.recommender.baselines import TransitionCounts, recommend_popular

TRAIN = [[0, 1, 2], [0, 1], [3, 1, 0]]  # counts: item 1 three, item 0 three, items 2 and 3 one, item 4 none


def test_popular_items_come_first_and_ties_by_index() -> None:
    assert recommend_popular(TRAIN, 5, 4).tolist() == [0, 1, 2, 3]


def test_followers_are_counted_over_the_last_items_and_filled_up() -> None:
    baseline = TransitionCounts(TRAIN, 5, window=2)
    assert baseline.recommend([0], 5).tolist() == [1, 0, 2, 3, 4]  # 0 → 1 twice
    assert baseline.recommend([3, 1], 2).tolist() == [0, 1]  # 3 → 1, 1 → 2, 1 → 0 once each: the more popular first
    assert baseline.recommend([0, 1], 3).tolist() == [1, 0, 2]  # 0 → 1 twice, 1 → 0 and 1 → 2 once each
    assert baseline.recommend([0, 4, 4], 1).tolist() == [0], "only the last two items count"


@pytest.mark.slow
def test_beauty_values(beauty: Path) -> None:
    data = RecommendationData(AtSpeedLayout(beauty))
    data.setup()
    train, num_items, requests = data.interactions.train, data.catalog.num_items, data.test_requests()
    truths = [torch.tensor([request.truth]) for request in requests]
    top, transitions = recommend_popular(train, num_items, 20), TransitionCounts(train, num_items)
    popular = torch.cat([recall_at_k(top[None], truth, 20) for truth in truths])
    followers = torch.cat(
        [
            recall_at_k(transitions.recommend(request.history, 20)[None], truth, 20)
            for request, truth in zip(requests, truths, strict=True)
        ]
    )
    assert float(popular.mean()) == pytest.approx(0.0123, abs=2e-4)
    assert float(followers.mean()) == pytest.approx(0.0227, abs=2e-4)
