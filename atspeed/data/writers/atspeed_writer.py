"""Writes the file layout of the AtSpeed reference implementation."""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.writers.dataset_writer import DatasetWriter
from atspeed.data.writers.item_files import are_numbers, require_distinct_users, write_json

log = logging.getLogger(__name__)


class AtSpeedWriter(DatasetWriter):
    """Writes what :class:`AtSpeedLayout` reads: ``items.json`` and ``sequential_{train,valid,test}.txt``.

    The layout names users and items by numbers from 1. If other names occur, they are numbered in order, and
    ``users.tsv`` or ``items.tsv`` has a line ``number⇥name`` for each.
    """

    def write(self, dataset: Dataset, folder: Path) -> None:
        """Write the files; see :meth:`DatasetWriter.write`."""
        require_distinct_users(dataset)
        items = _numbers(dataset.catalog.names, folder / "items.tsv")
        users = _numbers(dataset.users, folder / "users.tsv")
        sids = dataset.items["sid"].to_pylist()
        write_json(folder / "items.json", {str(number - 1): sid for number, sid in zip(items, sids, strict=True)})
        for split in SPLITS:
            with (folder / f"sequential_{split}.txt").open("w", encoding="utf-8") as file:
                for user, sequence in zip(users, getattr(dataset, split).tolist(), strict=True):
                    print(user, *(items[item] for item in sequence), file=file)
        metadata = [column for column in dataset.items.column_names if column not in ("item", "sid")]
        if metadata:
            log.warning("AtSpeed's layout has no metadata of items; not written: %s", ", ".join(metadata))


def _numbers(names: Sequence[str], file: Path) -> list[int]:
    """Return a number from 1 for each name; if they are not the names themselves, write them to a file."""
    if are_numbers(names) and "0" not in names:
        return list(map(int, names))
    with file.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines, delimiter="\t", lineterminator="\n").writerows(enumerate(names, start=1))
    log.warning("AtSpeed's layout names users and items by numbers from 1; %s has the names", file.name)
    return list(range(1, len(names) + 1))
