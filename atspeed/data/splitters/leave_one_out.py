"""Leave-one-out: each user's last item is for testing."""

import numpy as np

from atspeed.checks import require_at_least
from atspeed.data.dataset import Dataset
from atspeed.data.events import Events
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.splitters.splitter import Splitter, dataset_of


class LeaveOneOut(Splitter):
    """Each user's last item is for testing, the one before for validation, the others are for training.

    A user with fewer than ``min_train + 2`` items has training items only. All users, interactions and items are kept;
    ratings are ignored.

    Args:
        min_train: fewest training items of a user who has items for validation and testing.
    """

    def __init__(self, min_train: int = 1) -> None:
        require_at_least(1, data__source__split__min_train=min_train)
        self.min_train = min_train

    def split(self, events: Events) -> Dataset:
        """Split by each user's order in time; see :meth:`Splitter.split`."""
        return dataset_of(events, *leave_one_out(events.sequences(), self.min_train))


def leave_one_out(sequences: ItemSequences, min_train: int = 1) -> tuple[ItemSequences, ItemSequences, ItemSequences]:
    """Return each user's training items, the validation item and the test item.

    Args:
        sequences: each user's items in time order.
        min_train: users with fewer than ``min_train + 2`` items have training items only.

    >>> train, valid, test = leave_one_out(ItemSequences.from_lists([[4, 7, 4, 9], [2, 9]]))
    >>> train.tolist(), valid.tolist(), test.tolist()
    ([[4, 7], [2, 9]], [[4], []], [[9], []])
    """
    held_out = sequences.lengths >= min_train + 2  # [users]
    ends = sequences.offsets[1:][held_out]
    kept = np.ones(len(sequences.values), dtype=bool)
    kept[ends - 1] = kept[ends - 2] = False
    one_each = np.concatenate(([0], held_out.cumsum()))
    return (
        ItemSequences(sequences.offsets - 2 * one_each, sequences.values[kept]),
        ItemSequences(one_each, sequences.values[ends - 2]),
        ItemSequences(one_each, sequences.values[ends - 1]),
    )
