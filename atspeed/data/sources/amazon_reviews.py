"""Amazon reviews as their authors publish them."""

from pathlib import Path

from atspeed.data.dataset import Dataset
from atspeed.data.sources.event_files import EventColumns, read_dataset, with_titles
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.table_files import TableFile, open_table
from atspeed.data.sources.text_files import MalformedLines
from atspeed.data.splitters import Splitter

VERSIONS = {
    2018: EventColumns("reviewerID", "asin", "unixReviewTime", "overall"),
    2023: EventColumns("user_id", "parent_asin", "timestamp", "rating"),
}
"""Fields of the reviews of each year; those of the items' metadata have the same item and ``title``."""


class AmazonReviews(InteractionSource):
    """Amazon reviews of 2018 or 2023; the fields tell which.

    - 2018 (https://nijianmo.github.io/amazon): ``X.json.gz``, an object per line with ``reviewerID``, ``asin``,
      ``overall`` and ``unixReviewTime`` (seconds).
    - 2023 (https://amazon-reviews-2023.github.io): ``X.jsonl.gz``, an object per line, or ``X.csv.gz``, with
      ``user_id``, ``parent_asin``, ``rating`` and ``timestamp`` (milliseconds).

    Both are also read when they are not compressed, and other fields are not read. Several reviews of an item by one
    user are kept.

    Args:
        path: file of reviews.
        metadata: file of items with their titles: ``meta_X.json.gz`` or ``meta_X.jsonl.gz``.
        split: which interactions are for training, validation and testing; by default ``LeaveOneOut``.
        sids: file with the items' semantic IDs: a JSON object, item → list of codes, or Parquet with the columns
            ``item`` and ``sid``.
        skip_malformed: skip and count lines that cannot be read and interactions with items that ``sids`` lacks,
            instead of refusing the file.
    """

    def __init__(
        self,
        path: Path,
        metadata: Path | None = None,
        split: Splitter | None = None,
        sids: Path | None = None,
        skip_malformed: bool = False,
    ) -> None:
        self.path = Path(path)
        self.metadata = metadata
        self.split = split
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the one or two files; see :meth:`InteractionSource.load`."""
        malformed = MalformedLines(self.skip_malformed)
        reviews = open_table(self.path)
        columns = columns_of(reviews)
        data = read_dataset(reviews, columns, self.split, self.sids, malformed)
        if self.metadata is None:
            return data
        return with_titles(data, open_table(Path(self.metadata)), columns.item, "title", malformed)


def columns_of(reviews: TableFile) -> EventColumns:
    """Return the columns of a file of reviews.

    Raises:
        ValueError: if they are of neither year.
    """
    for columns in VERSIONS.values():
        if {columns.user, columns.item, columns.timestamp, columns.rating} <= {*reviews.names}:
            return columns
    expected = " or ".join(
        f"{columns.user}, {columns.item}, {columns.rating}, {columns.timestamp} ({year})"
        for year, columns in VERSIONS.items()
    )
    raise ValueError(f"{reviews.file}: expected the fields {expected}; they are {', '.join(reviews.names) or 'none'}")
