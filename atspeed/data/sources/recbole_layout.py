"""RecBole's atomic files."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from atspeed.data.dataset import Dataset
from atspeed.data.sources.event_files import EventColumns, read_dataset, with_titles
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.table_files import DelimitedFile
from atspeed.data.sources.text_files import MalformedLines
from atspeed.data.splitters import Splitter


class RecBoleLayout(InteractionSource):
    """RecBole's atomic files (https://recbole.io/docs/user_guide/data/atomic_files.html).

    ``X.inter`` has a row per interaction, in any order, its columns separated by tabs and named with their types:
    ``user_id:token  item_id:token  timestamp:float``, and perhaps ``rating:float``. ``X.item`` beside it may have
    titles of the items (``item_id:token  title:token_seq``). Other columns and files are not read.

    Args:
        path: the file ``X.inter``.
        user: column of users, without its type.
        item: column of items, in both files.
        timestamp: column of times.
        rating: column of ratings; by default ``rating``, where there is one.
        title: column of titles in ``X.item``, such as ``movie_title``; by default ``title``, where there is one.
        split: which interactions are for training, validation and testing; by default ``LeaveOneOut``.
        sids: file with the items' semantic IDs: a JSON object, item → list of codes, or Parquet with the columns
            ``item`` and ``sid``.
        skip_malformed: skip and count lines that cannot be read and interactions with items that ``sids`` lacks,
            instead of refusing the file.
    """

    def __init__(
        self,
        path: Path,
        user: str = "user_id",
        item: str = "item_id",
        timestamp: str = "timestamp",
        rating: str | None = None,
        title: str | None = None,
        split: Splitter | None = None,
        sids: Path | None = None,
        skip_malformed: bool = False,
    ) -> None:
        self.path = Path(path)
        self.user = user
        self.item = item
        self.timestamp = timestamp
        self.rating = rating
        self.title = title
        self.split = split
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the one or two files; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        columns = EventColumns(self.user, self.item, self.timestamp, self.rating)
        data = read_dataset(AtomicFile(self.path), columns, self.split, self.sids, malformed)
        items = self.path.with_suffix(".item")
        if not items.is_file() and self.title is None:
            return data
        table = AtomicFile(items)
        if self.title is None and not table.may_have("title"):
            return data
        return with_titles(data, table, self.item, self.title or "title", malformed)


class AtomicFile(DelimitedFile):
    """A file whose columns are named ``name:type``."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, "\t")

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the columns, without their types."""
        names, colons, _ = zip(*(field.partition(":") for field in self.header), strict=True)
        if not all(colons):
            raise ValueError(f"{self.file}: expected a header such as user_id:token; it is {' '.join(self.header)!r}")
        return names
