import json
from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import MiniOneRecLayout

SIDS = {str(item): ["<a_1>", f"<b_{item}>"] for item in range(6)}
HEADER = "user_id,history_item_title,item_title,history_item_id,item_id,history_item_sid,item_sid"


def row(user: str, history: list[int], item: int) -> str:
    """Return a line of a CSV file."""
    sids = ["".join(SIDS[str(each)]) for each in history]
    titles = [f'Item "{each}", blue' for each in history]
    quoted = [str(cell).replace('"', '""') for cell in (titles, f"Item {item}", history, item, sids)]
    return ",".join([user, *(f'"{cell}"' for cell in quoted), "".join(SIDS[str(item)])])


FILES = {
    "train/Arts_5.csv": [HEADER, row("u", [0], 1), row("u", [0, 1], 2), row("v", [5], 4)],
    "valid/Arts_5.csv": [HEADER, row("u", [1, 2], 3), row("w", [3, 3], 0)],
    "test/Arts_5.csv": [
        HEADER,
        row("u", [2, 3], 1),
        row("u", [2, 3, 1], 1),
        row("v", [5, 4], 0),
        row("w", [3, 3, 0], 2),
    ],
    "info/Arts_5.txt": [f"{''.join(codes)}\tItem {item}, the\tbest\t{item}" for item, codes in SIDS.items()],
    "index/Arts.index.json": [json.dumps(SIDS)],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small data set; what it is given replaces the lines of files."""

    def write(replaced: dict[str, list[str] | None] | None = None) -> Path:
        for name, lines in {**FILES, **(replaced or {})}.items():
            if lines is not None:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text("\n".join(lines))
        return tmp_path

    return write


def test_sequences_are_put_together_from_requests(write: Callable[..., Path]) -> None:
    data = MiniOneRecLayout(write()).load()
    assert data.users == ["u", "v", "w"]
    assert data.train.tolist() == [[0, 1, 2], [5, 4], [3, 3]], "the first history and the items of the training rows"
    assert data.valid.tolist() == [[3], [], [0]]
    assert data.test.tolist() == [[1, 1], [0], [2]]
    assert data.items["title"].to_pylist()[0] == "Item 0, the\tbest"
    assert data.items["sid"].to_pylist() == list(SIDS.values())


def test_titles_come_from_the_item_file_if_it_is_there(write: Callable[..., Path]) -> None:
    item = json.dumps({name: {"title": f"{name}!", "brand": "Acme"} for name in SIDS})
    items = MiniOneRecLayout(write({"index/Arts.item.json": [item]})).load().items
    assert (items["title"][1].as_py(), items["brand"][1].as_py()) == ("1!", "Acme")
    none = write({"info/Arts_5.txt": [f"{''.join(codes)}\t\t{item}" for item, codes in SIDS.items()]})
    (none / "index" / "Arts.item.json").unlink()
    assert MiniOneRecLayout(none).load().items.column_names == ["item", "sid"], "no item has a title"


@pytest.mark.parametrize(
    ("missing", "train", "test"),
    [
        (["train"], [[1, 2], [3, 3], [5, 4]], [[1, 1], [2], [0]]),
        (["valid"], [[0, 1, 2, 3], [5, 4], [3, 3, 0]], [[1, 1], [0], [2]]),  # 3 and 0 are what only histories hold
        (["train", "valid"], [[2, 3], [5, 4], [3, 3, 0]], [[1, 1], [0], [2]]),
    ],
)
def test_missing_splits_are_done_without(
    write: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
    missing: list[str],
    train: list[list[int]],
    test: list[list[int]],
) -> None:
    data = MiniOneRecLayout(write({f"{split}/Arts_5.csv": None for split in missing})).load()
    assert (data.train.tolist(), data.test.tolist()) == (train, test)
    assert f"has no CSV of the split {' and '.join(missing)}; what only the histories" in caplog.text


def test_industrial_and_scientific_is_read_whole(minionerec: Path) -> None:
    data = MiniOneRecLayout(minionerec).load()
    assert (len(data.users), data.catalog.num_items, data.catalog.num_levels) == (3_285, 3_686, 3)
    assert (len(data.train.values), len(data.valid.values), len(data.test.values)) == (13_678, 4_532, 4_533)
    assert data.items.column_names == ["item", "sid", "title", "description", "brand", "categories"]
    user = data.users.index("A5382")
    assert [split[user].tolist() for split in (data.train, data.valid)] == [[3437, 642, 642, 2520], [1128, 2540]]


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        (
            "test/Arts_5.csv",
            ["user_id,item_id"],
            "test/Arts_5.csv: the column 'history_item_id' is missing; expected at",
        ),
        ("test/Arts_5.csv", [""], "test/Arts_5.csv: the column 'user_id' is missing"),
        ("test/Arts_5.csv", [HEADER, "u,x"], r"test/Arts_5.csv:2: history_item_id is ''; expected a list as Python"),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [0], 1) + ",1"],
            "test/Arts_5.csv:2: the row has more fields than there are",
        ),
        ("test/Arts_5.csv", [HEADER, 'u,"a'], "test/Arts_5.csv:2: not CSV"),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [2, 3], 1).replace("[2, 3]", "list(range(2))")],
            r"test/Arts_5.csv:2: history_item_id is 'list\(range\(2\)\)'; expected a list as Python writes it",
        ),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [2, 3], 1).replace("[2, 3]", "[2]")],
            "test/Arts_5.csv:2: 1 items in history_item_id, but 2 in history_item_sid",
        ),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [2, 3], 1).replace("[2, 3]", "[2, 8]")],
            "test/Arts_5.csv:2: item '8' has no semantic ID",
        ),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [2, 3], 1).replace("<a_1><b_3>", "<a_1><b_2>")],
            "test/Arts_5.csv:2: item '3' has the semantic ID '<a_1><b_2>', but '<a_1><b_3>' in the index",
        ),
        (
            "test/Arts_5.csv",
            [HEADER, row("v", [5, 4], 0), row("u", [2, 1], 4)],
            "test/Arts_5.csv:3: the history of user 'u'",
        ),
        (
            "test/Arts_5.csv",
            [HEADER, row("u", [], 4)],
            "test/Arts_5.csv:2: the history of user 'u' does not go on from",
        ),
        (
            "valid/Arts_5.csv",
            [HEADER, row("u", [2, 3], 1)],
            "valid/Arts_5.csv:2: the history of user 'u' does not go on",
        ),
        ("info/Arts_5.txt", ["<a_1><b_0>\t0"], "info/Arts_5.txt:1: expected 'sid⇥title⇥item', not"),
        (
            "info/Arts_5.txt",
            ["<a_1><b_0>\tSoap\t1"],
            "info/Arts_5.txt:1: item '1' has the semantic ID '<a_1><b_0>', but",
        ),
        ("info/Arts_5.txt", ["<a_1><b_9>\tSoap\t9"], "info/Arts_5.txt:1: item '9' has no semantic ID"),
        ("index/Arts.index.json", ["{}"], "index/Arts.index.json: each item must have a semantic ID"),
    ],
)
def test_bad_files_are_refused_by_name(write: Callable[..., Path], file: str, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiniOneRecLayout(write({file: lines})).load()


def test_nothing_of_a_file_is_run(write: Callable[..., Path], tmp_path: Path) -> None:
    call = f"[open({str(tmp_path / 'ran')!r}, 'w')]"
    bad = row("u", [2, 3], 1).replace("[2, 3]", call.replace('"', '""'))
    with pytest.raises(ValueError, match="expected a list as Python writes it"):
        MiniOneRecLayout(write({"test/Arts_5.csv": [HEADER, bad]})).load()
    assert not (tmp_path / "ran").exists()


def test_of_several_data_sets_one_is_named(write: Callable[..., Path]) -> None:
    crafts = {"index/Arts_and_Crafts.index.json": ["{}"], "train/Arts_and_Crafts_5.csv": ["x"]}
    folder = write(crafts)
    with pytest.raises(FileNotFoundError, match=r"dataset must say which\); found \['Arts.index.json', 'Arts_and_Craf"):
        MiniOneRecLayout(folder).load()
    assert MiniOneRecLayout(folder, "Arts").load().users == ["u", "v", "w"]


def test_missing_files_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.source.root .*nowhere' is not a folder"):
        MiniOneRecLayout(tmp_path / "nowhere").load()
    with pytest.raises(FileNotFoundError, match=r"index' is not a folder"):
        MiniOneRecLayout(tmp_path).load()
    folder = write({f"{split}/Arts_5.csv": None for split in ("train", "valid", "test")})
    with pytest.raises(FileNotFoundError, match=r"must hold train/Arts\*.csv, valid/… or test/…"):
        MiniOneRecLayout(folder).load()
    write({"test/Arts_2016.csv": [HEADER]})
    with pytest.raises(
        FileNotFoundError, match=r"test must hold one Arts\*.csv; found \['Arts_2016.csv', 'Arts_5.csv'\]"
    ):
        MiniOneRecLayout(folder).load()


def test_a_file_that_is_not_utf8_is_refused(write: Callable[..., Path]) -> None:
    (write() / "valid" / "Arts_5.csv").write_bytes(f"{HEADER}\ncaf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match="valid/Arts_5.csv:2: not UTF-8"):
        MiniOneRecLayout(write({"valid/Arts_5.csv": None})).load()


def test_malformed_rows_are_skipped_and_counted(write: Callable[..., Path]) -> None:
    lines = [HEADER, row("u", [2, 1], 4), "x", row("w", [3, 3, 0], 2), row("w", [3, 3, 0, 2], 1)]
    data = MiniOneRecLayout(write({"test/Arts_5.csv": lines}), skip_malformed=True).load()
    assert (data.users, data.test.tolist()) == (["u", "v", "w"], [[], [], [2, 1]])
    assert data.skipped == {"malformed lines of Arts_5.csv": 2}
