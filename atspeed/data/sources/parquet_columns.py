"""Reading columns of Parquet files that users bring, with errors that name the file and the column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from atspeed.data.item_sequences import ItemSequences


def read_columns(path: Path, columns: list[str], expected: str) -> pa.Table:
    """Read columns of a Parquet file, or of all Parquet files of a folder.

    Args:
        path: the file or folder.
        columns: the columns to read.
        expected: what it should hold, for errors.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not Parquet, or lacks a column.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; expected {expected}")
    try:
        content = ds.dataset(path, format="parquet")
        missing = [column for column in columns if column not in content.schema.names]
        if not missing:
            return content.to_table(columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not Parquet, damaged or truncated: {str(error).splitlines()[0]}") from error
    raise ValueError(f"{path}: the column {missing[0]!r} is missing; expected {expected}")


def name_column(path: Path, table: pa.Table, column: str) -> pa.Array:
    """Return a column of users or items as text.

    Raises:
        ValueError: if it holds something else than whole numbers or text.
    """
    return _checked(path, column, _one_array(table[column])).cast(pa.string())


def item_lists(path: Path, column: str, parts: list[pa.ChunkedArray]) -> tuple[pa.Array, ItemSequences]:
    """Return lists of items, which are whole numbers or text.

    Args:
        path: the file or folder, for errors.
        column: the column that holds them, for errors.
        parts: the lists, one part after the other.

    Returns:
        The names of the distinct items, and the lists as rows of these names; a missing list is empty.

    Raises:
        ValueError: if the parts hold something else, or an item is missing.
    """
    for kind in (part.type for part in parts):
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            raise ValueError(f"{path}: the column {column!r} holds {kind}; expected lists")
    values = [_checked(path, column, _one_array(pc.list_flatten(part))) for part in parts]
    lengths = np.concatenate([pc.list_value_length(part).fill_null(0).to_numpy() for part in parts])
    offsets = np.concatenate(([0], lengths.cumsum(dtype=np.int64)))
    flat = pa.concat_arrays([each.cast(values[0].type) for each in values])
    if flat.null_count:
        raise ValueError(f"{path}: {flat.null_count} items of the lists {column!r} are missing")
    encoded = flat.dictionary_encode()
    return encoded.dictionary.cast(pa.string()), ItemSequences(offsets, encoded.indices.to_numpy().astype(np.int64))


def require_distinct(path: Path, names: pa.Array, what: str) -> None:
    """Raise ``ValueError`` that names the file and the name if one is missing or there twice."""
    counts = pc.value_counts(names)
    if names.null_count:
        raise ValueError(f"{path}: {names.null_count} rows name no {what}")
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise ValueError(f"{path}: {what} {twice[0]['values'].as_py()!r} is there twice")


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _checked(path: Path, column: str, values: pa.Array) -> pa.Array:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"{path}: the column {column!r} holds {values.type}; expected whole numbers or text")
    return values
