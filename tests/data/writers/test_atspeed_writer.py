import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import AtSpeedLayout, AtSpeedWriter, Dataset, EmbeddedCatalog
from tests.data.equal import assert_equal, without_metadata


def names(file: Path) -> dict[str, str]:
    with file.open(newline="") as lines:
        return dict(csv.reader(lines, delimiter="\t"))


def test_numbers_are_kept(write_layout: Callable[..., Path], tmp_path: Path) -> None:
    data = AtSpeedLayout(write_layout()).load()
    AtSpeedWriter().write(data, tmp_path)
    written = sorted(file.name for file in tmp_path.iterdir() if file.is_file())
    assert written == ["items.json", "sequential_test.txt", "sequential_train.txt", "sequential_valid.txt"]
    assert (tmp_path / "sequential_valid.txt").read_text() == "7 4\n8\n9 1 2\n"
    assert_equal(AtSpeedLayout(tmp_path).load(), data)


def test_beauty_comes_back(beauty: Path, tmp_path: Path) -> None:
    data = AtSpeedLayout(beauty).load()
    AtSpeedWriter().write(data, tmp_path)
    assert_equal(AtSpeedLayout(tmp_path).load(), data)


def test_other_names_are_numbered_and_kept_beside(
    awkward: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    AtSpeedWriter().write(awkward, tmp_path)
    read = AtSpeedLayout(tmp_path).load()
    assert read.users == ["1", "2", "3", "4", "5", "6"]
    users, items = (names(tmp_path / f"{what}.tsv") for what in ("users", "items"))
    named = read.items.set_column(0, "item", [[items[number] for number in read.items["item"].to_pylist()]])
    renamed = dataclasses.replace(read, items=named, users=[users[number] for number in read.users])
    assert_equal(renamed, without_metadata(awkward))
    assert "numbers from 1; items.tsv has the names" in caplog.text
    assert "not written: title, brand" in caplog.text


def test_number_0_is_numbered_anew(write_layout: Callable[..., Path], tmp_path: Path) -> None:
    data = dataclasses.replace(AtSpeedLayout(write_layout()).load(), users=["0", "1", "2"])
    AtSpeedWriter().write(data, tmp_path)
    assert AtSpeedLayout(tmp_path).load().users == ["1", "2", "3"]


def test_items_without_semantic_ids_are_refused(awkward: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="have no semantic IDs; make some with: python -m atspeed semantic-ids"):
        AtSpeedWriter().write(dataclasses.replace(awkward, items=awkward.items.select(["item"])), tmp_path)


def test_users_of_one_name_are_refused(tmp_path: Path) -> None:
    data = EmbeddedCatalog(num_users=2, num_items=24, num_tastes=3).load()
    with pytest.raises(ValueError, match="two users are called 'u', which this format cannot hold"):
        AtSpeedWriter().write(dataclasses.replace(data, users=["u", "u"]), tmp_path)
