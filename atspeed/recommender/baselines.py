"""Recommenders without a model, that every trained one must beat."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor


def recommend_popular(train: Sequence[Sequence[int]], num_items: int, k: int) -> Tensor:
    """Return the ``k`` items with the most training interactions, best first; ties go to the smaller index."""
    counts = torch.bincount(torch.tensor([item for items in train for item in items]), minlength=num_items)
    return counts.argsort(descending=True, stable=True)[:k]


class TransitionCounts:
    """Recommends what followed a user's last items most often in training.

    An item's score is the number of times it came directly after one of the history's last ``window`` items, summed
    over them. Ties go to the more popular item, and the list is filled up with the most popular others.

    Args:
        train: each user's training items, in time order.
        num_items: size of the catalog.
        window: how many of the last items count.
    """

    def __init__(self, train: Sequence[Sequence[int]], num_items: int, window: int = 5) -> None:
        self.window = window
        self.followers: dict[int, Counter[int]] = defaultdict(Counter)
        for items in train:
            for item, following in pairwise(items):
                self.followers[item][following] += 1
        self.popular = recommend_popular(train, num_items, num_items).tolist()
        self.rank = {item: rank for rank, item in enumerate(self.popular)}

    def recommend(self, history: Sequence[int], k: int) -> Tensor:
        """Return the ``k`` best items after a history, int64."""
        scores: Counter[int] = Counter()
        for item in history[-self.window :]:
            scores.update(self.followers.get(item, {}))
        best = sorted(scores, key=lambda item: (-scores[item], self.rank[item]))[:k]
        others = (item for item in self.popular if item not in scores)
        return torch.tensor(best + list(islice(others, k - len(best))))
