import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atspeed.data import Dataset, EmbeddedCatalog, ItemSequences, Prepared
from atspeed.data.dataset import item_table
from atspeed.data.fingerprint import fingerprint
from atspeed.data.writers import PreparedWriter

DATA = Dataset(
    item_table(["soap", "comb", "pen"], [["<a_1>"], ["<a_2>"], ["<a_1>"]], title=["Olive soap", None, "Žluť"]),
    ["u", "v", "w"],
    train=ItemSequences.from_lists([[0, 1, 0], [], [2]]),
    valid=ItemSequences.from_lists([[1], [], []]),
    test=ItemSequences.from_lists([[], [2, 2], []]),
    skipped={"malformed lines of x.txt": 3},
    origin={"class_path": "mine.Source", "init_args": {"seed": 1}, "read": "2026-11-24T09:00:00+00:00"},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "prepared"
    root.mkdir()
    PreparedWriter().write(DATA, root)
    return root


def test_a_data_set_comes_back_as_it_was(folder: Path) -> None:
    data = Prepared(folder).load()
    assert data.items.equals(DATA.items)
    assert data.users == DATA.users
    for split in ("train", "valid", "test"):
        ours, theirs = getattr(data, split), getattr(DATA, split)
        assert ours.tolist() == theirs.tolist()
        assert (ours.offsets.dtype, ours.values.dtype) == (theirs.offsets.dtype, theirs.values.dtype)
    assert (data.skipped, data.origin) == (DATA.skipped, DATA.origin)
    assert data.catalog.names == ("soap", "comb", "pen")


def test_a_data_set_of_many_row_groups_without_semantic_ids_comes_back(folder: Path, tmp_path: Path) -> None:
    data = EmbeddedCatalog(num_users=50, num_items=130).load()
    bare = Dataset(data.items.select(["item"]), data.users, data.train, data.valid, data.test)
    root = tmp_path / "bare"
    root.mkdir()
    PreparedWriter().write(bare, root)
    for file in root.rglob("*.parquet"):
        pq.write_table(pq.read_table(file), file, row_group_size=7)
    read = Prepared(root).load()
    assert not read.has_sids
    assert fingerprint(read) == fingerprint(bare)
    assert read.train.tolist() == data.train.tolist()


def test_the_tables_are_plain_parquet(folder: Path) -> None:
    table = pq.read_table(folder / "sequences" / "train.parquet")
    assert table.to_pydict() == {"user": ["u", "v", "w"], "items": [[0, 1, 0], [], [2]]}
    record = json.loads((folder / "dataset.json").read_text())
    assert record["counts"] == {"items": 3, "users": 3, "train": 4, "valid": 1, "test": 2}
    assert record["source"]["class_path"] == "mine.Source"


def test_semantic_ids_of_a_file_replace_those_of_the_folder(folder: Path, tmp_path: Path) -> None:
    sids = tmp_path / "sids.json"
    sids.write_text(json.dumps({"comb": ["<x>", "<y>"], "soap": ["<z>", "<y>"]}))
    with pytest.raises(ValueError, match="item 'pen' has no semantic ID, and 3 interactions"):
        Prepared(folder, sids).load()
    data = Prepared(folder, sids, skip_malformed=True).load()
    assert [data.catalog.sid(item) for item in range(2)] == [("<z>", "<y>"), ("<x>", "<y>")]
    assert data.train.tolist() == [[0, 1, 0], [], []]
    assert data.skipped == {
        "malformed lines of x.txt": 3,
        "items without semantic ID": 1,
        "interactions with an item without semantic ID": 3,
    }
    assert data.origin == DATA.origin


def rewrite(name: str, **columns: pa.Array) -> Callable[[Path], object]:
    return lambda root: pq.write_table(pa.table(columns), root / name)


def delete(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def overwrite(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def record(**changes: object) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        content = json.loads((root / "dataset.json").read_text())
        new = {name: value for name, value in {**content, **changes}.items() if value is not None}
        (root / "dataset.json").write_text(json.dumps(new))

    return change


LISTS = pa.array([[0, 1, 0], [], [1]], pa.large_list(pa.int32()))
USERS = pa.array(["u", "v", "w"])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            delete("dataset.json"),
            FileNotFoundError,
            "dataset.json is missing; expected a folder",
        ),
        (
            overwrite("dataset.json", b"{"),
            ValueError,
            "dataset.json: expected what prepare writes",
        ),
        (overwrite("dataset.json", b"[1]"), ValueError, "dataset.json: expected what prepare"),
        (overwrite("dataset.json", b'{"\xff"'), ValueError, "dataset.json: .*not UTF-8"),
        (record(format=2), ValueError, "dataset.json: format 2 is newer than 1, .* update atspeed"),
        (record(sha256=None), ValueError, r"dataset.json: \['sha256'\] missing"),
        (record(sha256="0" * 64), ValueError, "prepared does not match its fingerprint in dataset.json"),
        (
            delete("items.parquet"),
            FileNotFoundError,
            "items.parquet is missing; expected a table",
        ),
        (
            lambda root: (root / "items.parquet").write_bytes((root / "items.parquet").read_bytes()[:-9]),
            ValueError,
            "items.parquet is damaged: .*; delete the folder and run",
        ),
        (rewrite("items.parquet", title=USERS), ValueError, "items.parquet has no column 'item' of type string"),
        (
            lambda root: shutil.rmtree(root / "sequences"),
            FileNotFoundError,
            "train.parquet is missing; expected a table with the columns user and items",
        ),
        (rewrite("sequences/test.parquet", user=USERS), ValueError, "test.parquet has no column 'items' of type"),
        (
            rewrite("sequences/valid.parquet", user=USERS, items=USERS),
            ValueError,
            "no column 'items' of type",
        ),
        (rewrite("sequences/train.parquet", user=USERS, items=LISTS), ValueError, "does not match its fingerprint"),
        (
            rewrite("sequences/train.parquet", user=pa.array(["u", "v"]), items=LISTS[:2]),
            ValueError,
            "'valid' has 3 sequences; expected one per user, 2",
        ),
    ],
)
def test_bad_folders_are_refused_by_name(
    folder: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as raised:
        Prepared(folder).load()
    assert str(raised.value).count("\n") == 0


def test_a_missing_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.source\.root .*nowhere' is not a folder"):
        Prepared(tmp_path / "nowhere").load()
