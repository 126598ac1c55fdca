import numpy as np
import pytest

from atspeed.data import Dataset, ItemSequences
from atspeed.data.dataset import item_table

TRAIN = ItemSequences.from_lists([[0, 1, 2], [2, 1]])
NONE = ItemSequences.from_lists([[], []])
SIDS = item_table(["comb", "soap", "pen"], [["<a_1>"], ["<a_2>"], ["<a_3>"]])


def dataset(items: list[str]) -> Dataset:
    return Dataset(item_table(items, title=[name.title() for name in items]), ["u", "v"], TRAIN, NONE, NONE)


def test_splits_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match=r"split 'test' has 1 sequences; expected one per user, 2"):
        Dataset(item_table(["soap"], [["<a_1>"]]), ["u", "v"], TRAIN, NONE, ItemSequences.from_lists([[0]]))


def test_items_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two items are called 'soap'"):
        dataset(["soap", "comb", "soap"])


def test_a_data_set_without_semantic_ids_says_where_to_get_some() -> None:
    with pytest.raises(ValueError, match="python -m atspeed semantic-ids, .* data.source.sids"):
        dataset(["soap", "comb", "cup"]).catalog  # noqa: B018


def test_semantic_ids_are_joined_by_name_and_new_items_come_last() -> None:
    data = dataset(["soap", "comb", "pen"]).with_sids(SIDS.slice(0, 3), skip_missing=False)
    assert [data.catalog.sid(item) for item in range(3)] == [("<a_2>",), ("<a_1>",), ("<a_3>",)]
    cold = Dataset(item_table(["soap", "comb"]), ["u"], *[ItemSequences.from_lists([[1]])] * 3)
    data = cold.with_sids(SIDS, skip_missing=False)
    assert data.catalog.names == ("soap", "comb", "pen")
    assert data.catalog.titles is None
    assert data.train.tolist() == [[1]]


def test_items_without_a_semantic_id_are_refused_or_counted() -> None:
    data = dataset(["soap", "cup", "comb"])
    with pytest.raises(ValueError, match=r"item 'cup' has no semantic ID, and 2 interactions .*skip_malformed"):
        data.with_sids(SIDS, skip_missing=False)
    data = data.with_sids(SIDS, skip_missing=True)
    assert data.catalog.names == ("soap", "comb", "pen")
    assert data.train.tolist() == [[0, 1], [1]]
    assert data.items["title"].to_pylist() == ["Soap", "Comb", None]
    assert data.catalog.titles == ("Soap", "Comb", None)
    assert data.skipped == {"items without semantic ID": 1, "interactions with an item without semantic ID": 2}
    assert np.array_equal(data.valid.offsets, [0, 0, 0])
