"""What every splitter has in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from atspeed.data.dataset import Dataset, item_table
from atspeed.data.events import Events
from atspeed.data.item_sequences import ItemSequences


class Splitter(ABC):
    """Which interactions are for training, validation and testing; a config names a subclass by ``data.source.split``.

    Attributes:
        column: the column of the file that it needs besides user, item, time and rating; None: no other.
    """

    column: str | None = None

    @abstractmethod
    def split(self, events: Events) -> Dataset:
        """Return each user's items by time in three splits; what is left out is counted in ``Dataset.skipped``.

        Raises:
            ValueError: if nothing is left to train on.
        """


def dataset_of(
    events: Events,
    train: ItemSequences,
    valid: ItemSequences,
    test: ItemSequences,
    skipped: Mapping[str, int] | None = None,
) -> Dataset:
    """Return the users and items of events with their splits.

    Raises:
        ValueError: if there is no training interaction.
    """
    skipped = {what: number for what, number in (skipped or {}).items() if number}
    if not len(train.values):
        left_out = ", ".join(f"{number} {what}" for what, number in skipped.items())
        raise ValueError(f"data.source.split leaves out all interactions for training ({left_out or 'there are none'})")
    return Dataset(
        item_table(events.item_names.to_pylist()), events.user_names.to_pylist(), train, valid, test, skipped
    )
