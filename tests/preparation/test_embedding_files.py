import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from atspeed.preparation import embedding_files
from atspeed.preparation.embedding_files import read_embeddings

ITEMS = pa.chunked_array([["soap", "comb"], ["pen"]])
VALUES = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
ALL = np.arange(3)


def write_parquet(file: Path, items: list, embeddings: list, kind: pa.DataType | None = None) -> Path:
    kind = kind or pa.list_(pa.float64())
    pq.write_table(pa.table({"item": items, "embedding": pa.array(embeddings, kind)}), file)
    return file


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_arrays_are_in_the_order_of_the_items(dtype: str, tmp_path: Path) -> None:
    if dtype != "bfloat16":
        np.save(tmp_path / "items.npy", VALUES.astype(dtype))
        found = read_embeddings(tmp_path / "items.npy", ITEMS, ALL)
        assert isinstance(found, np.memmap)
        assert np.array_equal(found, VALUES)
    save_file({"x": torch.from_numpy(VALUES).to(getattr(torch, dtype))}, tmp_path / "items.safetensors")
    assert np.array_equal(read_embeddings(tmp_path / "items.safetensors", ITEMS, ALL), VALUES)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.large_list(pa.float16())])
def test_parquet_files_are_joined_by_name(kind: pa.DataType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "PARQUET_BATCH", 2)
    rows = [np.array(row, np.float16) for row in ([5, 6], [9, 9], [1, 2], [3, 4])]
    file = write_parquet(tmp_path / "items.parquet", ["pen", "cup", "soap", "comb"], rows, kind)
    assert np.array_equal(read_embeddings(file, ITEMS, ALL), VALUES)


def test_a_parquet_file_names_items_by_number_and_may_lack_those_that_are_not_needed(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "items.parquet", [30, 10], [[5, 6], [1, 2]])
    items = pa.chunked_array([["10", "20", "30"]])
    assert read_embeddings(file, items, np.array([0, 2]))[[0, 2]].tolist() == [[1, 2], [5, 6]]
    with pytest.raises(ValueError, match=r"items.parquet: .*: item '20' has none, nor have 0 others"):
        read_embeddings(file, items, ALL)


def test_a_value_that_is_not_finite_is_refused_by_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_files, "CHUNK", 2)
    for value in (np.nan, -np.inf, 1e39):
        values = VALUES.astype(np.float64)
        values[2, 1] = value
        np.save(tmp_path / "items.npy", values)
        with pytest.raises(ValueError, match=r"items.npy: the embedding of item 'pen' \(item 2 of the data, from 0\)"):
            read_embeddings(tmp_path / "items.npy", ITEMS, ALL)
    read_embeddings(tmp_path / "items.npy", ITEMS, np.array([0, 1]))
    file = write_parquet(tmp_path / "items.parquet", ["soap", "comb", "pen"], [[1, 2], [3, None], [5, 6]])
    with pytest.raises(ValueError, match="the embedding of item 'comb'"):
        read_embeddings(file, ITEMS, ALL)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(VALUES))
    for name in ("objects", "pickle"):
        with pytest.raises(ValueError, match=rf"{name}.npy: expected \*.npy .*(object|pickle)"):
            read_embeddings(tmp_path / f"{name}.npy", ITEMS, ALL)


def test_other_content_is_refused_by_file(tmp_path: Path) -> None:
    np.save(tmp_path / "long.npy", np.zeros((4, 2)))
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "whole.npy", np.zeros((3, 2), dtype=int))
    (tmp_path / "short.npy").write_bytes((tmp_path / "long.npy").read_bytes()[:-9])
    np.savez(tmp_path / "many.npz", VALUES)
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    save_file({"x": torch.zeros(3, 2), "y": torch.zeros(3, 2)}, tmp_path / "two.safetensors")
    (tmp_path / "text.safetensors").write_text("soap")
    (tmp_path / "items.csv").write_text("soap,1,2")
    for name in ("empty.npy", "empty.safetensors", "empty.parquet"):
        (tmp_path / name).touch()
    pq.write_table(pa.table({"item": ["soap"], "vector": [[1.0]]}), tmp_path / "column.parquet")
    write_parquet(tmp_path / "lengths.parquet", ["soap", "comb", "pen"], [[1, 2], [3], [5, 6]])
    write_parquet(tmp_path / "null.parquet", ["soap", "comb", "pen"], [[1, 2], None, [5, 6]])
    write_parquet(tmp_path / "twice.parquet", ["soap", "comb", "pen", "comb"], [[1, 2]] * 4)
    write_parquet(tmp_path / "none.parquet", [], [])
    pq.write_table(pa.table({"item": ["soap"], "embedding": ["x"]}), tmp_path / "words.parquet")
    for name, fault in {
        "long.npy": "found 4 rows, but the data has 3 items",
        "flat.npy": r"found an array of float64 and shape \[3\]",
        "whole.npy": "found an array of int64",
        "short.npy": "",
        "many.npy": "found an archive",
        "two.safetensors": r"found 2 tensors, \['x', 'y'\]",
        "text.safetensors": "",
        "items.csv": "the suffix '.csv' is not known",
        "empty.npy": "",
        "empty.safetensors": "",
        "empty.parquet": "",
        "column.parquet": r"it has no column 'embedding', only \['item', 'vector'\]",
        "lengths.parquet": r"embeddings are not of 2 numbers each, but of \[2, 1\]",
        "null.parquet": r"embeddings are not of 2 numbers each, but of \[2, None\]",
        "twice.parquet": "an item has two embeddings",
        "none.parquet": "item 'soap' has none, nor have 2 others",
        "words.parquet": "",
    }.items():
        with pytest.raises(ValueError, match=rf"{name}: expected \*.npy or .*: {fault}"):
            read_embeddings(tmp_path / name, ITEMS, ALL)
    with pytest.raises(FileNotFoundError, match=r"nowhere.npy is missing; expected \*.npy"):
        read_embeddings(tmp_path / "nowhere.npy", ITEMS, ALL)
