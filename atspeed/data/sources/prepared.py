"""The folder that ``python -m atspeed prepare`` writes, read without a Python object per user or interaction."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.fingerprint import fingerprint
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.sid_file import read_sids
from atspeed.data.sources.text_files import read_text, require_file, require_folder

FORMAT = 1
"""Version of the folder's format; a reader refuses a newer one."""
ITEMS = pa.schema({"item": pa.string()})
SEQUENCES = pa.schema({"user": pa.string(), "items": pa.large_list(pa.int32())})
"""Columns of ``sequences/*.parquet``: large lists have int64 offsets, which are those of :class:`ItemSequences`."""
WAY_OUT = "delete the folder and run python -m atspeed prepare again"


class Prepared(InteractionSource):
    """A folder that ``python -m atspeed prepare`` wrote; it loads millions of interactions in seconds.

    ``items.parquet`` is :attr:`Dataset.items`. ``sequences/{train,valid,test}.parquet`` have the columns ``user``
    (string, the same users in the same order) and ``items`` (list of row numbers of ``items.parquet``, from 0).
    ``dataset.json`` has the format's version, counts, the source and when it was read, what was skipped, and the
    SHA-256 of the content, which is checked.

    Args:
        root: the folder.
        sids: a file of semantic IDs, which replace those in the folder: a JSON object, item → list of codes, or Parquet
            with the columns ``item`` and ``sid``.
        skip_malformed: leave out and count the items for which this file has no semantic ID, and their interactions,
            instead of refusing it.
    """

    def __init__(self, root: Path, sids: Path | None = None, skip_malformed: bool = False) -> None:
        self.root = Path(root)
        self.sids = sids
        self.skip_malformed = skip_malformed

    def load(self) -> Dataset:
        """Read the folder and check its fingerprint; see :meth:`InteractionSource.load`."""
        require_folder(self.root, "data.source.root")
        record = self._read_record()
        items = self._read_table("items.parquet", ITEMS)
        tables = {split: self._read_table(f"sequences/{split}.parquet", SEQUENCES) for split in SPLITS}
        dataset = Dataset(
            items,
            tables["train"]["user"].to_pylist(),
            **{split: _sequences_of(table["items"]) for split, table in tables.items()},
            skipped=record["skipped"],
            origin=record["source"],
        )
        if fingerprint(dataset) != record["sha256"]:
            raise ValueError(
                f"the content of {self.root} does not match its fingerprint in dataset.json: a file was changed, "
                f"replaced or damaged; {WAY_OUT}"
            )
        if self.sids is None:
            return dataset
        return dataset.with_sids(read_sids(Path(self.sids)), self.skip_malformed)

    def _read_record(self) -> dict[str, Any]:
        """Return the content of ``dataset.json``, whose format this version reads."""
        file = self.root / "dataset.json"
        require_file(file, "a folder that python -m atspeed prepare wrote")
        try:
            record = json.loads(read_text(file))
            version = int(record["format"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: expected what prepare writes: {error!r}; {WAY_OUT}") from error
        if version > FORMAT:
            raise ValueError(f"{file}: format {version} is newer than {FORMAT}, the newest known here; update atspeed")
        if missing := {"skipped", "source", "sha256"} - record.keys():
            raise ValueError(f"{file}: {sorted(missing)} missing; {WAY_OUT}")
        return record

    def _read_table(self, name: str, expected: pa.Schema) -> pa.Table:
        """Return a table that has the expected columns, and possibly others."""
        file = self.root / name
        require_file(file, f"a table with the columns {' and '.join(expected.names)}; {WAY_OUT}")
        try:
            table = pq.read_table(file, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is damaged: {str(error).splitlines()[0]}; {WAY_OUT}") from error
        for column in expected:
            if column.name not in table.column_names or table.schema.field(column.name).type != column.type:
                raise ValueError(f"{file} has no column {column.name!r} of type {column.type}; {WAY_OUT}")
        return table


def _sequences_of(column: pa.ChunkedArray) -> ItemSequences:
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    return ItemSequences(offsets - offsets[0], lists.flatten().to_numpy().astype(np.int64))
