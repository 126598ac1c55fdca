"""The split that the file itself gives."""

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.events import Events
from atspeed.data.splitters.splitter import Splitter, dataset_of


class GivenSplit(Splitter):
    """A column of the file says ``train``, ``valid`` or ``test`` for each interaction.

    All users, interactions and items are kept; ratings are ignored.

    Args:
        column: its name.
    """

    def __init__(self, column: str = "split") -> None:
        self.column = column

    def split(self, events: Events) -> Dataset:
        """Order each user's items of each split by time; see :meth:`Splitter.split`."""
        if events.splits is None:
            raise ValueError(f"the interactions have no column {self.column!r}, which data.source.split asks for")
        train, valid, test = (events.sequences(events.splits == split) for split in range(len(SPLITS)))
        return dataset_of(events, train, valid, test)
