import dataclasses
import json
from pathlib import Path

import pytest

from atspeed.data import Dataset, ItemSequences, LCRecLayout, LCRecWriter
from tests.data.equal import assert_equal


def test_instruments_come_back(lcrec: Path, tmp_path: Path) -> None:
    data = LCRecLayout(lcrec).load()
    LCRecWriter("Instruments").write(data, tmp_path)
    assert_equal(LCRecLayout(tmp_path).load(), data)
    for file in lcrec.iterdir():
        assert json.loads((tmp_path / file.name).read_text()) == json.loads(file.read_text())


def test_names_and_metadata_come_back(awkward_left_out: Dataset, tmp_path: Path) -> None:
    LCRecWriter().write(awkward_left_out, tmp_path)
    assert_equal(LCRecLayout(tmp_path).load(), awkward_left_out)


@pytest.mark.parametrize(
    ("train", "valid", "test"), [([0, 1], [2, 3], [1]), ([0], [], [1]), ([], [0], [1]), ([0, 1, 2], [], [])]
)
def test_other_splits_are_refused(
    awkward_left_out: Dataset, tmp_path: Path, train: list[int], valid: list[int], test: list[int]
) -> None:
    splits = {
        split: ItemSequences.from_lists([getattr(awkward_left_out, split)[0], items, []])
        for split, items in (("train", train), ("valid", valid), ("test", test))
    }
    message = f"user 'u,2' has {len(train)} items for training, {len(valid)} for validation and {len(test)} for testing"
    with pytest.raises(ValueError, match=f"{message}, and 1 users are like that; LC-Rec's layout holds one"):
        LCRecWriter().write(dataclasses.replace(awkward_left_out, **splits), tmp_path)
    assert not list(tmp_path.iterdir())


def test_items_without_semantic_ids_are_refused(awkward_left_out: Dataset, tmp_path: Path) -> None:
    bare = dataclasses.replace(awkward_left_out, items=awkward_left_out.items.select(["item"]))
    with pytest.raises(ValueError, match="have no semantic IDs"):
        LCRecWriter().write(bare, tmp_path)


def test_users_of_one_name_are_refused(awkward_left_out: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two users are called 'u', which this format cannot hold"):
        LCRecWriter().write(dataclasses.replace(awkward_left_out, users=["u", "u", "v"]), tmp_path)
