"""Writes the file layout of MiniOneRec."""

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.item_sequences import concatenate
from atspeed.data.writers.dataset_writer import DatasetWriter
from atspeed.data.writers.item_files import numbers_or_names, require_distinct_users, write_item_files

log = logging.getLogger(__name__)
HEADER = (
    *("user_id", "history_item_title", "item_title", "history_item_id", "item_id"),
    *("history_item_sid", "item_sid"),
)
MAX_HISTORY = 10
"""Items of a history that MiniOneRec keeps."""


class MiniOneRecWriter(DatasetWriter):
    """Writes what :class:`MiniOneRecLayout` reads: the folders ``index``, ``info``, ``train``, ``valid`` and ``test``.

    A row is an item and the user's last ten items before it. A user's first item has a row only if no other row holds
    it as one for training. Users without items have none, and are left out.

    Args:
        name: what the file names begin with.
    """

    def __init__(self, name: str = "data") -> None:
        self.name = name

    def write(self, dataset: Dataset, folder: Path) -> None:
        """Write the files; see :meth:`DatasetWriter.write`."""
        require_distinct_users(dataset)
        names = dataset.catalog.names
        unfit = [name for name in (*names, *dataset.users) if re.search(r"[\t\r\n]", name)]
        if unfit:
            raise ValueError(f"MiniOneRec's layout cannot hold the name {unfit[0]!r}, which has a tab or a line break")
        for part in ("index", "info", *SPLITS):
            (folder / part).mkdir()
        write_item_files(dataset, folder / "index", self.name)
        sids = ["".join(codes) for codes in dataset.items["sid"].to_pylist()]
        titles = [""] * len(names)
        if "title" in dataset.items.column_names:
            titles = [re.sub(r"[\r\n]+", " ", str(title or "")) for title in dataset.items["title"].to_pylist()]
        with (folder / "info" / f"{self.name}.txt").open("w", encoding="utf-8") as info:
            for sid, title, name in zip(sids, titles, names, strict=True):
                print(sid, title, name, sep="\t", file=info)
        written = numbers_or_names(names)
        for split in SPLITS:
            with (folder / split / f"{self.name}.csv").open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(HEADER)
                for user, history, item in _requests(dataset, split):
                    row: list[object] = [user]
                    for column in (titles, written, sids):
                        row += [column[each] for each in history], column[item]
                    rows.writerow(row)
        empty = np.sum(dataset.train.lengths + dataset.valid.lengths + dataset.test.lengths == 0)
        if empty:
            log.warning("MiniOneRec's layout has no users without items; %d are not written", empty)


def _requests(dataset: Dataset, split: str) -> Iterator[tuple[str, list[int], int]]:
    """Yield the user, the history and the item of each row of a split."""
    complete = concatenate(dataset.train, dataset.valid, dataset.test)
    ends = np.cumsum([part.lengths for part in (dataset.train, dataset.valid, dataset.test)], axis=0)  # [splits, users]
    stops = ends[SPLITS.index(split)]
    starts = stops - getattr(dataset, split).lengths
    for user, items, start, stop in zip(dataset.users, complete.tolist(), starts.tolist(), stops.tolist(), strict=True):
        for position in range(start, stop):
            if position > 0 or split != "train" or len(items) == 1:
                yield user, items[max(0, position - MAX_HISTORY) : position], items[position]
