"""Writes the file layout of LC-Rec."""

from pathlib import Path

import numpy as np

from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import concatenate
from atspeed.data.writers.dataset_writer import DatasetWriter
from atspeed.data.writers.item_files import numbers_or_names, require_distinct_users, write_item_files, write_json


class LCRecWriter(DatasetWriter):
    """Writes what :class:`LCRecLayout` reads: ``NAME.inter.json``, ``NAME.index.json`` and ``NAME.item.json``.

    Each user has one item for validation and one for testing, or fewer than three items, all for training: the layout
    does not say otherwise which item is for what.

    Args:
        name: what the file names begin with.
    """

    def __init__(self, name: str = "data") -> None:
        self.name = name

    def write(self, dataset: Dataset, folder: Path) -> None:
        """Write the files; see :meth:`DatasetWriter.write`."""
        require_distinct_users(dataset)
        lengths = np.stack([split.lengths for split in (dataset.train, dataset.valid, dataset.test)])
        left_out = (lengths[0] > 0) & (lengths[1:] == 1).all(0)
        unfit = np.flatnonzero(~left_out & ~((lengths[1:] == 0).all(0) & (lengths[0] < 3)))
        if len(unfit):
            train, valid, test = lengths[:, unfit[0]]
            raise ValueError(
                f"user {dataset.users[unfit[0]]!r} has {train} items for training, {valid} for validation and {test} "
                f"for testing, and {len(unfit)} users are like that; LC-Rec's layout holds one for validation and one "
                "for testing of each user with three items or more, none of others: write another format"
            )
        written = numbers_or_names(dataset.catalog.names)
        complete = concatenate(dataset.train, dataset.valid, dataset.test).tolist()
        sequences = {
            user: [written[item] for item in items] for user, items in zip(dataset.users, complete, strict=True)
        }
        write_json(folder / f"{self.name}.inter.json", sequences)
        write_item_files(dataset, folder, self.name)
