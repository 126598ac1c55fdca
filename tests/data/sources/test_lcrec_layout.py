import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atspeed.data import LCRecLayout

SIDS = {"0": ["<a_1>", "<b_2>"], "1": ["<a_1>", "<b_10>"], "2": ["<a_2>", "<b_2>"]}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small data set; keyword arguments replace a file's content, as text or as an object."""

    def write(**replaced: Any) -> Path:
        files = {"index": SIDS, "inter": {"u": [0, 1, 2, 1], "v": ["2", "0", "2"], "w": [1, 2]}, "item": None}
        for name, content in (files | replaced).items():
            if content is not None:
                text = content if isinstance(content, str) else json.dumps(content)
                (tmp_path / f"Games.{name}.json").write_text(text)
        return tmp_path

    return write


def test_last_items_are_left_out(write: Callable[..., Path]) -> None:
    data = LCRecLayout(write()).load()
    assert data.users == ["u", "v", "w"]
    assert data.items.to_pydict() == {"item": list(SIDS), "sid": list(SIDS.values())}
    assert data.train.tolist() == [[0, 1], [2], [1, 2]], "a user of two items has none for testing"
    assert data.valid.tolist() == [[2], [0], []]
    assert data.test.tolist() == [[1], [2], []]


def test_metadata_are_columns(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    item = {"0": {"title": "Olive soap", "price": 3.5}, "2": {"title": None, "tags": ["ü", "b"]}, "9": {"title": "no"}}
    data = LCRecLayout(write(item=item)).load()
    assert data.items.drop_columns(["item", "sid"]).to_pydict() == {
        "title": ["Olive soap", None, None],
        "price": ["3.5", None, None],
        "tags": [None, None, '["ü", "b"]'],
    }
    assert data.skipped == {"items of Games.item.json without semantic ID": 1}
    assert "left out 1 items that have no semantic ID" in caplog.text


def test_instruments_are_read_whole(lcrec: Path) -> None:
    data = LCRecLayout(lcrec).load()
    assert (len(data.users), data.catalog.num_items, data.catalog.num_levels) == (24_772, 9_922, 4)
    assert (len(data.train.values), len(data.valid.values), len(data.test.values)) == (156_609, 24_772, 24_772)
    assert [split[0].tolist() for split in (data.train, data.valid, data.test)] == [list(range(17)), [17], [18]]


def test_of_several_data_sets_one_is_named(write: Callable[..., Path]) -> None:
    folder = write()
    (folder / "Arts.index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"dataset must say which\); found \['Arts.*', 'Games.index.json'\]"):
        LCRecLayout(folder).load()
    assert len(LCRecLayout(folder, "Games").load().users) == 3


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"index": "{}"}, "Games.index.json: each item must have .* there is no item"),
        (
            {"index": "[1]"},
            "Games.index.json: expected a JSON object, item → list of codes.*: the file holds no JSON o",
        ),
        ({"index": '{"0": ["<a_1>"'}, "Games.index.json: expected a JSON object, item → list of codes"),
        ({"index": '{"0": ["<a_1>"], "0": ["<a_2>"]}'}, "Games.index.json: .* the key '0' is there twice"),
        (
            {"index": SIDS | {"1": "<a_1><b_2>"}},
            "Games.index.json: item '1' has '<a_1><b_2>'; expected a list of codes",
        ),
        ({"index": SIDS | {"1": [1, 2]}}, r"Games.index.json: item '1' has \[1, 2\]; expected a list of codes"),
        ({"index": SIDS | {"1": ["<a_1>"]}}, "Games.index.json: each .* as many codes; item '0' has 2, item '1' has 1"),
        ({"item": "[]"}, "Games.item.json: expected a JSON object, item → metadata.*the file holds no JSON object"),
        ({"item": {"0": "soap"}}, "Games.item.json: expected a JSON object, item → metadata.* item '0' has 'soap'"),
        ({"item": {"0": {"sid": "a"}}}, "Games.item.json: metadata must not be called 'item' or 'sid'"),
        ({"inter": "{}"}, "Games.inter.json has no interaction"),
        ({"inter": '{"u": [0], "u": [1]}'}, "Games.inter.json: .* the key 'u' is there twice"),
        (
            {"inter": {"u": [0, 7]}},
            "Games.inter.json: user 'u' has the item 7, which has no semantic ID; .*such entries",
        ),
        ({"inter": {"u": [0, [1]]}}, r"Games.inter.json: user 'u' has the item \[1\], which has no semantic ID"),
        ({"inter": {"u": 0}}, "Games.inter.json: user 'u' has 0; expected a list of items"),
    ],
)
def test_bad_files_are_refused_by_name(write: Callable[..., Path], replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LCRecLayout(write(**replaced)).load()


def test_missing_files_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.source.root .*nowhere' is not a folder"):
        LCRecLayout(tmp_path / "nowhere").load()
    with pytest.raises(FileNotFoundError, match=r"must hold one \*.index.json .*; found \[\]"):
        LCRecLayout(tmp_path).load()
    (write() / "Games.inter.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"Games.inter.json is missing; expected a JSON object, user → items"):
        LCRecLayout(tmp_path).load()
    with pytest.raises(FileNotFoundError, match=r"Arts.index.json is missing; expected a JSON object, item → list"):
        LCRecLayout(tmp_path, "Arts").load()


def test_a_file_that_is_not_utf8_is_refused(write: Callable[..., Path]) -> None:
    folder = write()
    (folder / "Games.inter.json").write_bytes(b'{"caf\xe9": [0]}')
    with pytest.raises(ValueError, match="Games.inter.json:1: not UTF-8"):
        LCRecLayout(folder).load()


def test_malformed_users_are_skipped_and_counted(write: Callable[..., Path]) -> None:
    data = LCRecLayout(write(inter={"u": [0, 7], "v": 3, "w": [1, 2, 0]}), skip_malformed=True).load()
    assert (data.users, data.train.tolist()) == (["w"], [[1]])
    assert data.skipped == {"malformed entries of Games.inter.json": 2}
