"""The items of a bundle, for predictions."""

from pathlib import Path

import pyarrow.parquet as pq

from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource


class BundledItems(InteractionSource):
    """Items and their semantic IDs, without users: ``predict`` takes histories from a file (``data.histories``).

    Args:
        root: a bundle, which ``python -m atspeed bundle`` wrote.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def load(self) -> Dataset:
        """Read the items; see :meth:`InteractionSource.load`."""
        nothing = ItemSequences.from_lists([])
        return Dataset(pq.read_table(self.root / "items.parquet"), [], nothing, nothing, nothing)
