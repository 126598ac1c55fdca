"""A table of interactions, in any of the usual formats."""

from pathlib import Path

from atspeed.data.dataset import Dataset
from atspeed.data.sources.event_files import EventColumns, read_dataset
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.table_files import open_table
from atspeed.data.sources.text_files import MalformedLines
from atspeed.data.splitters import Splitter


class Interactions(InteractionSource):
    """A file with a row per interaction: user, item, time and perhaps a rating, in any order.

    Its suffix tells the format: ``.csv`` or ``.tsv`` (with a header), ``.jsonl`` or ``.json`` (an object per line), all
    of them also compressed (``.gz``), and ``.parquet``. Users and items are text or whole numbers, times are numbers in
    any unit (in Parquet also dates), ratings numbers or empty. Interactions that occur twice are kept.

    Args:
        path: the file.
        user: column of users.
        item: column of items.
        timestamp: column of times.
        rating: column of ratings; by default ``rating``, where there is one.
        split: which interactions are for training, validation and testing; by default ``LeaveOneOut``.
        sids: file with the items' semantic IDs: a JSON object, item → list of codes, or Parquet with the columns
            ``item`` and ``sid``.
        skip_malformed: skip and count lines that cannot be read and interactions with items that ``sids`` lacks,
            instead of refusing the file.
    """

    def __init__(
        self,
        path: Path,
        user: str = "user",
        item: str = "item",
        timestamp: str = "timestamp",
        rating: str | None = None,
        split: Splitter | None = None,
        sids: Path | None = None,
        skip_malformed: bool = False,
    ) -> None:
        self.path = Path(path)
        self.user = user
        self.item = item
        self.timestamp = timestamp
        self.rating = rating
        self.split = split
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read and split the interactions; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        columns = EventColumns(self.user, self.item, self.timestamp, self.rating)
        return read_dataset(open_table(self.path), columns, self.split, self.sids, malformed)
