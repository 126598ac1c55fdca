"""From a file of interactions to a data set: what the sources of raw interactions have in common."""

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.events import Events
from atspeed.data.sources.cell_values import Column
from atspeed.data.sources.checked_columns import read_columns
from atspeed.data.sources.sid_file import read_sids
from atspeed.data.sources.table_files import TableFile
from atspeed.data.sources.text_files import MalformedLines
from atspeed.data.splitters import LeaveOneOut, Splitter


@dataclass(frozen=True)
class EventColumns:
    """Which columns of a file are what.

    Attributes:
        user: column of users.
        item: column of items.
        timestamp: column of times.
        rating: column of ratings; None: ``rating``, where there is one.
    """

    user: str
    item: str
    timestamp: str
    rating: str | None


def read_dataset(
    table: TableFile,
    names: EventColumns,
    split: Splitter | None,
    sids: Path | None,
    malformed: MalformedLines,
) -> Dataset:
    """Read interactions, split them, and give the items their semantic IDs.

    Args:
        table: the file of interactions.
        names: its columns.
        split: which interactions are for training, validation and testing; None: :class:`LeaveOneOut`.
        sids: file of semantic IDs for :func:`read_sids`.
        malformed: refuses or counts lines that cannot be read; items without a semantic ID likewise.

    Raises:
        ValueError: if the file has no interaction, or for the reasons of the functions that are called.
    """
    split = split or LeaveOneOut()
    columns = {
        "user": Column(names.user, pa.string(), setting="data.source.user"),
        "item": Column(names.item, pa.string(), setting="data.source.item"),
        "timestamp": Column(names.timestamp, pa.float64(), setting="data.source.timestamp"),
    }
    if names.rating or table.may_have("rating"):
        name = names.rating or "rating"
        columns["rating"] = Column(name, pa.float64(), optional=True, setting="data.source.rating")
    if split.column:
        columns["split"] = Column(split.column, pa.string(), allowed=SPLITS, setting="data.source.split.column")
    found = read_columns(table, columns, malformed)
    if not len(found):
        raise ValueError(f"{table.file} has no interaction")
    if "rating" in columns and found["rating"].null_count == len(found):
        if names.rating:
            raise ValueError(f"{table.file} has no value in the column {names.rating!r}")
        found = found.drop_columns("rating")
    data = split.split(Events.from_table(found))
    data = replace(data, skipped={**malformed.counts, **data.skipped})
    return data if sids is None else data.with_sids(read_sids(sids), malformed.skip)


def with_titles(data: Dataset, table: TableFile, item: str, title: str, malformed: MalformedLines) -> Dataset:
    """Return the data set with the titles of its items; of several titles of an item the first counts.

    Args:
        data: the data set.
        table: file of items; those without an interaction are left out and counted.
        item: its column of items.
        title: its column of titles, which may lack some.
        malformed: refuses or counts lines that cannot be read.
    """
    found = read_columns(
        table, {"item": Column(item, pa.string()), "title": Column(title, pa.string(), optional=True)}, malformed
    )
    names = data.items["item"]
    titles = found["title"].take(pc.index_in(names, found["item"]))
    unknown = pc.sum(pc.invert(pc.is_in(found["item"], names))).as_py()
    skipped = {**data.skipped, **malformed.counts}
    if unknown:
        skipped[f"items of {table.file.name} without an interaction"] = unknown
    return replace(data, items=data.items.append_column("title", titles), skipped=skipped)
