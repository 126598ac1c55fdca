"""Item embeddings of a file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open

from atspeed.data.sources.text_files import require_file

EXPECTED = (
    "*.npy or *.safetensors (one array [items, dimensions], in the order of the data's items), or *.parquet (columns "
    "item and embedding)"
)
CHUNK = 16_384
PARQUET_BATCH = 2_048
"""Rows that are decoded at once, which takes several times their size."""


def read_embeddings(file: Path, items: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """Return the embeddings of a file, in the order of the data set's items.

    Args:
        file: ``*.npy`` (memory-mapped) or ``*.safetensors`` (one tensor), an array ``[items, dim]`` in the order of the
            data set's items; or ``*.parquet`` with the columns ``item`` (name) and ``embedding`` (list of numbers), in
            any order, also of more items.
        items: names of the data set's items, strings.
        rows: the items whose embeddings are needed, ``[R]``, int64. A Parquet file may lack the others.

    Returns:
        ``[items, dim]``, of any floating type; finite in ``rows``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else; the message names the row and the item where there is one.
    """
    require_file(file, EXPECTED)
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors}
    try:
        if file.suffix == ".parquet":
            embeddings = _read_parquet(file, items, rows)
        elif file.suffix in readers:
            embeddings = readers[file.suffix](file)
        else:
            raise ValueError(f"the suffix {file.suffix!r} is not known")
        if embeddings.ndim != 2 or not embeddings.size or not np.issubdtype(embeddings.dtype, np.floating):
            raise ValueError(f"found an array of {embeddings.dtype} and shape {list(embeddings.shape)}")
        if len(embeddings) != len(items):
            raise ValueError(f"found {len(embeddings)} rows, but the data has {len(items)} items")
    except (ValueError, EOFError, OSError, SafetensorError, pa.ArrowException) as error:
        raise ValueError(f"{file}: expected {EXPECTED}: {error}") from error
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        with np.errstate(over="ignore"):  # refused below
            finite = np.isfinite(embeddings[chunk].astype(np.float32)).all(1)
        if not finite.all():
            row = int(chunk[finite.argmin()])
            raise ValueError(
                f"{file}: the embedding of item {items[row].as_py()!r} (item {row} of the data, from 0) has a value "
                "that is NaN or infinite in float32"
            )
    return embeddings


def _read_npy(file: Path) -> np.ndarray:
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("found an archive of arrays")
    return array


def _read_safetensors(file: Path) -> np.ndarray:
    with safe_open(file, "pt") as tensors:
        names = list(tensors.keys())
        if len(names) != 1:
            raise ValueError(f"found {len(names)} tensors, {names[:3]}")
        tensor: torch.Tensor = tensors.get_tensor(names[0])
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # NumPy has no bfloat16


def _read_parquet(file: Path, items: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """Read into one array, because a table and a sorted copy would take twice the memory."""
    # by default all bytes of a row group, often of the file, are read at once
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as parquet:
        missing = {"item", "embedding"} - set(parquet.schema_arrow.names)
        if missing:
            raise ValueError(f"it has no column {min(missing)!r}, only {parquet.schema_arrow.names}")
        names = parquet.read(["item"])["item"].cast(pa.string())
        targets = pc.fill_null(pc.index_in(names, items.combine_chunks()), -1).to_numpy()  # of each row of the file
        known = targets[targets >= 0]
        if len(np.unique(known)) < len(known):
            raise ValueError("an item has two embeddings")
        absent = np.setdiff1d(rows, known)
        if len(absent):
            raise ValueError(f"item {items[int(absent[0])].as_py()!r} has none, nor have {len(absent) - 1} others")
        embeddings, start = np.empty((0, 0), np.float32), 0
        for batch in parquet.iter_batches(PARQUET_BATCH, columns=["embedding"]):
            vectors = batch["embedding"]
            lengths = pc.unique(pc.list_value_length(vectors)).to_pylist()
            if not start:
                embeddings = np.zeros((len(items), lengths[0] or 0), np.float32)
            if lengths != [embeddings.shape[1]]:
                raise ValueError(f"embeddings are not of {embeddings.shape[1]} numbers each, but of {lengths}")
            values = vectors.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)  # a null is NaN
            into = targets[start : start + len(vectors)]
            embeddings[into[into >= 0]] = values.reshape(len(vectors), -1)[into >= 0]
            start += len(vectors)
    return embeddings
