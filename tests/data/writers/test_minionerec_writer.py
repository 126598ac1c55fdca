import csv
import dataclasses
from pathlib import Path

import pytest

from atspeed.data import Dataset, ItemSequences, MiniOneRecLayout, MiniOneRecWriter
from tests.data.equal import assert_equal


def test_industrial_and_scientific_comes_back(minionerec: Path, tmp_path: Path) -> None:
    data = MiniOneRecLayout(minionerec).load()
    MiniOneRecWriter("Industrial_and_Scientific").write(data, tmp_path)
    assert_equal(MiniOneRecLayout(tmp_path).load(), data)
    for split in ("valid", "test"):
        (original,), (written,) = ((folder / split).glob("*.csv") for folder in (minionerec, tmp_path))
        with original.open(newline="") as one, written.open(newline="") as other:
            assert sorted(csv.reader(one)) == sorted(csv.reader(other)), "the very rows of the original"
    assert next((tmp_path / "info").iterdir()).read_text() == next((minionerec / "info").iterdir()).read_text()


def test_what_is_hard_to_write_comes_back(awkward: Dataset, tmp_path: Path) -> None:
    MiniOneRecWriter().write(awkward, tmp_path)
    assert_equal(MiniOneRecLayout(tmp_path).load(), awkward)
    with (tmp_path / "train" / "data.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["user_id"] == "u 1"]
    assert [row["history_item_id"] for row in rows[:2]] == ["['07']", "['07', 'a \"b\", c']"]
    assert len(rows) == 14, "the first item is in the history of the second"
    (tmp_path / "index" / "data.item.json").unlink()
    assert MiniOneRecLayout(tmp_path).load().items["title"].to_pylist() == [
        "Olive soap",
        None,
        "Comb, \"wide\"\tand 'long'",
        None,
    ]


def test_users_without_items_are_left_out_and_counted(
    awkward: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = {split: ItemSequences.from_lists([*getattr(awkward, split), []]) for split in ("train", "valid", "test")}
    MiniOneRecWriter().write(dataclasses.replace(awkward, users=[*awkward.users, "none"], **nothing), tmp_path)
    assert_equal(MiniOneRecLayout(tmp_path).load(), awkward)
    assert "no users without items; 1 are not written" in caplog.text


@pytest.mark.parametrize("name", ["a\tb", "a\nb", "a\rb"])
def test_names_with_tabs_or_line_breaks_are_refused(awkward: Dataset, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot hold the name 'a\\.b', which has a tab or a line break"):
        MiniOneRecWriter().write(dataclasses.replace(awkward, users=[*awkward.users[1:], name]), tmp_path)


def test_users_of_one_name_are_refused(awkward: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two users are called 'u 1', which this format cannot hold"):
        MiniOneRecWriter().write(dataclasses.replace(awkward, users=["u 1", *awkward.users[:-1]]), tmp_path)
