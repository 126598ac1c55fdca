"""The AtSpeed paper's split: one point in time for all users."""

from collections.abc import Sequence

import numpy as np

from atspeed.checks import require_at_least
from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.events import Events
from atspeed.data.splitters.splitter import Splitter, dataset_of


class GlobalTime(Splitter):
    """The AtSpeed paper's split: the first 80 % of all interactions are for training, the last 10 % for testing.

    1. Interactions rated below ``min_rating``, or not rated, are left out; where the file has no ratings, all are kept.
    2. The interactions of all users are ordered by time (those of the same time stay in the order of the file) and cut
       by ``ratio``.
    3. Users with fewer than ``min_train`` training interactions are left out, with all of their interactions.

    The catalog has the items of the interactions that are left, whichever split they are in. What is left out is
    counted in ``Dataset.skipped``.

    Args:
        min_rating: the lowest rating of an interaction that counts.
        ratio: shares of the training, validation and test interactions.
        min_train: fewest training interactions of a user.
    """

    def __init__(self, min_rating: float = 4, ratio: tuple[int, int, int] = (8, 1, 1), min_train: int = 2) -> None:
        require_at_least(1, data__source__split__min_train=min_train)
        if len(ratio) != len(SPLITS) or min(ratio) < 0 or ratio[0] == 0:
            raise ValueError(f"data.source.split.ratio is {list(ratio)}; expected the shares of train, valid and test")
        self.min_rating = min_rating
        self.ratio = ratio
        self.min_train = min_train

    def split(self, events: Events) -> Dataset:
        """Cut at two points in time; see :meth:`Splitter.split`."""
        liked = events
        if events.ratings is not None:
            liked = events.keep(events.ratings >= self.min_rating)  # false for NaN
        splits = split_by_time(liked.times, self.ratio)
        num_train = np.bincount(liked.users[splits == 0], minlength=len(liked.user_names))
        stays = (num_train >= self.min_train)[liked.users]  # [events]
        kept, splits = liked.keep(stays), splits[stays]
        few = f"fewer than {self.min_train} training interactions"
        skipped = {
            f"interactions rated below {self.min_rating:g} or not rated": len(events) - len(liked),
            f"users with {few}": len(events.user_names) - len(kept.user_names),
            f"interactions of users with {few}": len(liked) - len(kept),
            "items without an interaction that is left": len(events.item_names) - len(kept.item_names),
        }
        train, valid, test = (kept.sequences(splits == split) for split in range(len(SPLITS)))
        return dataset_of(kept, train, valid, test, skipped)


def split_by_time(times: np.ndarray, ratio: Sequence[int]) -> np.ndarray:
    """Return the split of each interaction, ``[interactions]``: 0 for the first ones, then 1, 2 …

    Args:
        times: when they were, ``[interactions]``; equal ones are ordered by position.
        ratio: share of the interactions in each split.

    >>> split_by_time(np.array([5, 3, 9, 3]), ratio=(2, 1, 1)).tolist()
    [1, 0, 2, 0]
    """
    ends = np.cumsum(ratio) * len(times) // sum(ratio)
    splits = np.empty(len(times), dtype=np.int8)
    splits[times.argsort(kind="stable")] = np.searchsorted(ends, np.arange(len(times)), side="right")
    return splits
