"""Recommenders without a model, which every trained one must beat."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog.item_catalog import ItemIndices


def recommend_popular(items: ItemIndices, num_items: int, k: int) -> Tensor:
    """Return the most popular items, best first; ties go to the smaller index.

    Args:
        items: the items of all training interactions, in any order.
        num_items: size of the catalog.
        k: length of the list.

    Returns:
        item indices, ``[min(k, num_items)]``, int64.

    >>> recommend_popular([3, 1, 3, 0], num_items=4, k=3).tolist()
    [3, 0, 1]
    """
    return torch.from_numpy(_by_popularity(items, num_items)[:k])


def _by_popularity(items: ItemIndices, num_items: int) -> np.ndarray:
    counts = np.bincount(np.asarray(items, dtype=np.int64), minlength=num_items)
    return np.argsort(-counts, kind="stable")


class TransitionCounts:
    """Recommends what most often followed a user's last items in training.

    An item's score is the number of times it came directly after one of the history's last ``window`` items, summed
    over them. Ties go to the more popular item, and the list is filled up with the most popular other items.

    Args:
        offsets: where each user's items start in ``items``, then the number of all items, ``[users + 1]``.
        items: the training items, one user after the other and in time order, ``[interactions]``.
        num_items: size of the catalog.
        window: how many of the last items count.

    >>> counts = TransitionCounts([0, 3, 5], [0, 1, 2, 0, 1], num_items=4)  # [0 1 2] and [0 1]
    >>> counts.recommend([0], k=4).tolist()
    [1, 0, 2, 3]
    """

    def __init__(
        self, offsets: Sequence[int] | np.ndarray, items: ItemIndices, num_items: int, window: int = 5
    ) -> None:
        self.window = window
        items = np.asarray(items, dtype=np.int64)
        users = np.arange(len(offsets) - 1).repeat(np.diff(offsets))
        same_user = users[1:] == users[:-1]
        pairs = items[:-1][same_user] * num_items + items[1:][same_user]
        pairs, self._counts = np.unique(pairs, return_counts=True)
        item, self._followers = np.divmod(pairs, num_items)
        self._first = np.searchsorted(item, np.arange(num_items + 1))  # followers of i: _first[i] … _first[i + 1] - 1
        self._popular = _by_popularity(items, num_items)
        self._rank = np.empty_like(self._popular)
        self._rank[self._popular] = np.arange(num_items)

    def recommend(self, history: ItemIndices, k: int) -> Tensor:
        """Return the best items after a history, ``[min(k, num_items)]``, int64."""
        spans = [np.arange(self._first[item], self._first[item + 1]) for item in history[-self.window :]]
        pairs = np.concatenate([np.empty(0, dtype=np.int64), *spans])
        candidates, which = np.unique(self._followers[pairs], return_inverse=True)
        scores = np.bincount(which, self._counts[pairs], minlength=len(candidates))
        best = candidates[np.lexsort((self._rank[candidates], -scores))]
        others = self._popular[:k]  # enough: only candidates, which come first, are taken out
        return torch.from_numpy(np.concatenate((best, others[~np.isin(others, best)]))[:k])
