"""The folder that the source ``Prepared`` reads."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.data.dataset import SPLITS, Dataset
from atspeed.data.fingerprint import fingerprint
from atspeed.data.sources.prepared import FORMAT, SEQUENCES
from atspeed.data.writers.dataset_writer import DatasetWriter


class PreparedWriter(DatasetWriter):
    """Writes what :class:`Prepared` reads; its docstring describes the files."""

    def write(self, dataset: Dataset, folder: Path) -> None:
        """Write the data set; see :meth:`DatasetWriter.write`."""
        pq.write_table(dataset.items, folder / "items.parquet")
        (folder / "sequences").mkdir()
        users = pa.array(dataset.users, pa.string())
        counts = {"items": dataset.items.num_rows, "users": len(dataset.users)}
        for split in SPLITS:
            sequences = getattr(dataset, split)
            items = pa.LargeListArray.from_arrays(sequences.offsets, pa.array(sequences.values, pa.int32()))
            table = pa.table([users, items], schema=SEQUENCES)
            pq.write_table(table, folder / "sequences" / f"{split}.parquet")
            counts[split] = len(sequences.values)
        record = {
            "format": FORMAT,
            "counts": counts,
            "source": dict(dataset.origin),
            "skipped": dict(dataset.skipped),
            "sha256": fingerprint(dataset),
        }
        (folder / "dataset.json").write_text(json.dumps(record, indent=2) + "\n")
