import numpy as np
import pyarrow as pa

from atspeed.data.events import Events

TABLE = pa.table(
    {
        "user": ["ann", "bob", "ann", "ann", "bob"],
        "item": ["soap", "soap", "comb", "pen", "soap"],
        "timestamp": [5.0, 2.0, 3.0, 3.0, 2.0],
        "rating": [4.0, None, 1.0, 5.0, 5.0],
        "split": ["test", "train", "train", "valid", "train"],
    }
)


def test_names_are_numbered_by_their_first_event() -> None:
    events = Events.from_table(TABLE)
    assert (events.user_names.to_pylist(), events.item_names.to_pylist()) == (["ann", "bob"], ["soap", "comb", "pen"])
    assert (events.users.tolist(), events.items.tolist()) == ([0, 1, 0, 0, 1], [0, 0, 1, 2, 0])
    assert events.ratings is not None
    assert events.splits is not None
    assert np.array_equal(events.ratings, [4, np.nan, 1, 5, 5], equal_nan=True)
    assert events.splits.tolist() == [2, 0, 0, 1, 0]
    plain = Events.from_table(TABLE.select(["user", "item", "timestamp"]))
    assert plain.ratings is None
    assert plain.splits is None


def test_chunks_of_a_table_share_their_names() -> None:
    events = Events.from_table(pa.concat_tables([TABLE.slice(0, 2), TABLE.slice(2, 1), TABLE.slice(3)]))
    assert events.items.tolist() == [0, 0, 1, 2, 0]


def test_sequences_are_by_time_then_by_the_order_of_the_file() -> None:
    events = Events.from_table(TABLE)
    assert events.sequences().tolist() == [[1, 2, 0], [0, 0]], "an interaction that occurs twice is kept"
    assert events.sequences(np.array([True, False, False, True, False])).tolist() == [[2, 0], []]


def test_only_users_and_items_of_kept_events_stay() -> None:
    events = Events.from_table(TABLE).keep(np.array([True, False, False, True, False]))
    assert (events.user_names.to_pylist(), events.item_names.to_pylist()) == (["ann"], ["soap", "pen"])
    assert (events.users.tolist(), events.items.tolist(), events.times.tolist()) == ([0, 0], [0, 1], [5, 3])
    assert events.ratings is not None
    assert events.splits is not None
    assert (events.ratings.tolist(), events.splits.tolist()) == ([4, 5], [2, 1])
