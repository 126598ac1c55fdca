from dataclasses import replace

import pyarrow as pa
import pytest

from atspeed.data import Dataset, ItemSequences
from atspeed.data.dataset import item_table
from atspeed.data.fingerprint import fingerprint

TRAIN = ItemSequences.from_lists([[0, 1], [], [1]])
VALID = ItemSequences.from_lists([[1], [], []])
ITEMS = item_table(["soap", "comb"], [["<a_0>", "<b_1>"], ["<a_2>", "<b_1>"]], title=["Olive soap", None])
DATA = Dataset(ITEMS, ["u", "v", "w"], TRAIN, VALID, VALID)


def with_items(names: list[str], sids: list[list[str]], titles: list[str | None]) -> Dataset:
    return replace(DATA, items=item_table(names, sids, title=titles))


def with_numbers(*values: int | None) -> Dataset:
    return replace(DATA, items=ITEMS.append_column("price", pa.array(values, pa.int32())))


def test_any_difference_of_the_content_shows_in_the_fingerprint() -> None:
    names, sids, titles = (ITEMS[name].to_pylist() for name in ("item", "sid", "title"))
    different = [
        DATA,
        replace(DATA, items=item_table(names, sids)),
        replace(DATA, items=ITEMS.rename_columns(["item", "sid", "name"])),
        with_items(names, sids, ["Olive soap", ""]),
        with_items(names, sids, ["", None]),
        with_items(names, sids, [None, ""]),
        with_items(names, sids, ["Olive soa", "p"]),
        with_items(["soapc", "omb"], sids, titles),
        with_items(names, [["<a_0>"], ["<b_1>", "<a_2>", "<b_1>"]], titles),
        with_numbers(1, 2),
        with_numbers(1, 3),
        with_numbers(1, None),
        replace(DATA, users=["u", "v", "x"]),
        replace(DATA, train=ItemSequences.from_lists([[0, 1], [1], []])),
        replace(DATA, train=ItemSequences.from_lists([[1, 1], [], [1]])),
        replace(DATA, valid=TRAIN, train=VALID),
    ]
    assert len({fingerprint(each) for each in different}) == len(different)


def test_how_the_content_is_stored_does_not_matter() -> None:
    chunks = pa.concat_tables([ITEMS.slice(0, 1), ITEMS.slice(1)])
    longer = pa.concat_tables([ITEMS, ITEMS]).combine_chunks().slice(2)
    noted = replace(DATA, skipped={"lines": 3}, origin={"class_path": "x"})
    for same in (replace(DATA, items=chunks), replace(DATA, items=longer), replace(DATA, users=("u", "v", "w")), noted):
        assert fingerprint(same) == fingerprint(DATA)


def test_strings_of_many_rows_are_hashed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(DATA)
    monkeypatch.setattr("atspeed.data.fingerprint.ROWS_AT_ONCE", 1)
    assert fingerprint(DATA) == before
