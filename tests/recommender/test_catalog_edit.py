import pyarrow as pa
import pytest

from atspeed.catalog.item_catalog import POPULARITY
from atspeed.recommender import edit_items

ITEMS = pa.table(
    {
        "item": ["x", "y", "z"],
        "sid": [["<a_1>"], ["<a_2>"], ["<a_1>"]],
        "title": ["soap", None, "comb"],
        POPULARITY: pa.array([5, 7, 0], pa.int64()),
    }
)


def test_items_are_added_replaced_in_their_rows_and_removed() -> None:
    edited = edit_items(
        ITEMS,
        add=[{"item": "w", "sid": ["<a_3>"], "title": "mug"}],
        replace=[{"item": "y", "title": "towel"}],
        remove=["x"],
    )
    assert edited.schema == ITEMS.schema
    assert edited.to_pylist() == [
        {"item": "y", "sid": ["<a_2>"], "title": "towel", POPULARITY: 7},
        {"item": "z", "sid": ["<a_1>"], "title": "comb", POPULARITY: 0},
        {"item": "w", "sid": ["<a_3>"], "title": "mug", POPULARITY: 0},
    ]
    assert edit_items(ITEMS).equals(ITEMS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add": [{"item": "x", "sid": ["<a_1>"]}]}, "item 'x' cannot be added: the catalog has it"),
        ({"replace": [{"item": "w"}]}, "item 'w' cannot be replaced or removed"),
        ({"remove": ["w"]}, "item 'w' cannot be replaced or removed"),
        ({"remove": ["x", "x"]}, "item 'x' is named 2 times"),
        ({"replace": [{"item": "x"}], "remove": ["x"]}, "item 'x' is named 2 times"),
        ({"remove": ["x", "y", "z"]}, "would remove all items"),
        ({"add": [{"sid": ["<a_1>"]}]}, "an item has the name None; expected a text"),
        ({"add": [{"item": 3, "sid": ["<a_1>"]}]}, "an item has the name 3; expected a text"),
        ({"add": [{"item": "w", "colour": "red"}]}, "item 'w' has 'colour'; the columns of the catalog are"),
        ({"add": [{"item": "w", "sid": 4}]}, "column 'sid' of the items is list"),
        ({"replace": [{"item": "x", POPULARITY: 2**70}]}, "column 'train_interactions' of the items is int64"),
    ],
)
def test_changes_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edit_items(ITEMS, **change)
