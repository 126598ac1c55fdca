"""A hash of a data set."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atspeed.data.dataset import Dataset

ROWS_AT_ONCE = 1 << 16  # strings of so many rows are joined, which must stay below 2 GB


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of items, users and splits as they are, however they are stored.

    Data sets of equal content have equal fingerprints; ``skipped`` and ``origin`` do not count.
    """
    digest = hashlib.sha256()
    for name in dataset.items.column_names:
        digest.update(repr(name).encode())
        _add(digest, dataset.items[name].combine_chunks())
    _add(digest, pa.array(dataset.users, pa.string()))
    for split in (dataset.train, dataset.valid, dataset.test):
        _add_integers(digest, split.lengths)
        _add_integers(digest, split.values)
    return digest.hexdigest()


def _add(digest: Any, column: pa.Array) -> None:
    digest.update(f"{len(column)} rows, {column.null_count} nulls".encode())
    digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        _add_integers(digest, pc.list_value_length(column).fill_null(0))
        _add(digest, column.flatten())
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        full = column.fill_null("")
        _add_integers(digest, pc.binary_length(full))
        for start in range(0, len(full), ROWS_AT_ONCE):
            part = full.slice(start, ROWS_AT_ONCE)
            rows = pa.ListArray.from_arrays(pa.array([0, len(part)], pa.int32()), part)
            digest.update(pc.binary_join(rows, "")[0].as_buffer())
    else:
        digest.update(str(column.to_pylist()).encode())


def _add_integers(digest: Any, values: Any) -> None:
    digest.update(np.ascontiguousarray(values, dtype="<i8"))
