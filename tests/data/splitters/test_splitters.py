"""Each splitter against plain loops over generated interactions."""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.data import Dataset, GivenSplit, GlobalTime, ItemSequences, LeaveOneOut, Splitter
from atspeed.data.events import Events
from atspeed.data.splitters import leave_one_out

Row = dict[str, Any]
SCHEMA = pa.schema(
    {"user": pa.string(), "item": pa.string(), "timestamp": pa.float64(), "rating": pa.float64(), "split": pa.string()}
)
ROW = st.fixed_dictionaries(
    {
        "user": st.sampled_from("abcd"),
        "item": st.sampled_from("stuvw"),
        "timestamp": st.integers(-3, 3).map(float),
        "rating": st.sampled_from([None, 1.0, 3.5, 4.0, 5.0]),
        "split": st.sampled_from(["train", "valid", "test"]),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=40)
Named = dict[str, list[list[str]]]
"""User → items by name in the three splits."""


def split(rows: list[Row], splitter: Splitter, without: str | None = None) -> Dataset:
    table = pa.Table.from_pylist(rows, SCHEMA)
    return splitter.split(Events.from_table(table.drop_columns(without) if without else table))


def named(data: Dataset) -> Named:
    names = data.items["item"].to_pylist()
    splits = [sequences.tolist() for sequences in (data.train, data.valid, data.test)]
    return {
        user: [[names[item] for item in items] for items in sequences]
        for user, *sequences in zip(data.users, *splits, strict=True)
    }


def by_user(rows: list[Row]) -> dict[str, list[str]]:
    histories = defaultdict(list)
    for user in dict.fromkeys(row["user"] for row in rows):
        for row in sorted((row for row in rows if row["user"] == user), key=lambda row: row["timestamp"]):
            histories[user].append(row["item"])
    return histories


@settings(deadline=None)
@given(ROWS, st.integers(1, 3))
def test_leave_one_out_equals_plain_loops(rows: list[Row], min_train: int) -> None:
    expected = {
        user: [items[:-2], items[-2:-1], items[-1:]] if len(items) >= min_train + 2 else [items, [], []]
        for user, items in by_user(rows).items()
    }
    data = split(rows, LeaveOneOut(min_train))
    assert named(data) == expected
    assert data.users == list(expected)
    assert data.items["item"].to_pylist() == list(dict.fromkeys(row["item"] for row in rows))
    assert data.skipped == {}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5), st.integers(1, 3))
def test_the_function_leaves_one_out_of_any_sequences(lists: list[list[int]], min_train: int) -> None:
    parts = leave_one_out(ItemSequences.from_lists(lists), min_train)
    long = [len(items) >= min_train + 2 for items in lists]
    assert parts[0].tolist() == [items[:-2] if held else items for items, held in zip(lists, long, strict=True)]
    assert parts[1].tolist() == [items[-2:-1] if held else [] for items, held in zip(lists, long, strict=True)]
    assert parts[2].tolist() == [items[-1:] if held else [] for items, held in zip(lists, long, strict=True)]


@settings(deadline=None)
@given(ROWS, st.sampled_from([(8, 1, 1), (1, 1, 1), (2, 0, 3)]), st.integers(1, 3), st.booleans())
def test_global_time_equals_plain_loops(
    rows: list[Row], ratio: tuple[int, int, int], min_train: int, rated: bool
) -> None:
    liked = [row for row in rows if not rated or (row["rating"] is not None and row["rating"] >= 4)]
    ordered = sorted(liked, key=lambda row: row["timestamp"])
    ends = [sum(ratio[:count]) * len(ordered) // sum(ratio) for count in range(4)]
    thirds = [ordered[start:end] for start, end in pairwise(ends)]
    users = [
        user
        for user in dict.fromkeys(row["user"] for row in rows)
        if sum(row["user"] == user for row in thirds[0]) >= min_train
    ]
    expected = {user: [[row["item"] for row in third if row["user"] == user] for third in thirds] for user in users}
    splitter = GlobalTime(ratio=ratio, min_train=min_train)
    if not users:
        with pytest.raises(ValueError, match="data.source.split leaves out all interactions for training"):
            split(rows, splitter, without=None if rated else "rating")
        return
    data = split(rows, splitter, without=None if rated else "rating")
    kept = [row for row in liked if row["user"] in users]
    assert named(data) == expected
    assert data.users == users
    assert data.items["item"].to_pylist() == [
        item for item in dict.fromkeys(row["item"] for row in rows) if any(row["item"] == item for row in kept)
    ]
    few = f"fewer than {min_train} training interactions"
    counts = {
        "interactions rated below 4 or not rated": len(rows) - len(liked),
        f"users with {few}": len({row["user"] for row in rows}) - len(users),
        f"interactions of users with {few}": len(liked) - len(kept),
        "items without an interaction that is left": len({row["item"] for row in rows} - {row["item"] for row in kept}),
    }
    assert data.skipped == {what: count for what, count in counts.items() if count}


@settings(deadline=None)
@given(ROWS)
def test_the_given_split_equals_plain_loops(rows: list[Row]) -> None:
    histories = by_user(rows)
    parts = [by_user([row for row in rows if row["split"] == name]) for name in ("train", "valid", "test")]
    if not parts[0]:
        with pytest.raises(ValueError, match="leaves out all interactions for training .there are none"):
            split(rows, GivenSplit())
        return
    data = split(rows, GivenSplit())
    assert named(data) == {user: [part.get(user, []) for part in parts] for user in histories}


def test_a_given_split_must_be_there() -> None:
    with pytest.raises(ValueError, match="have no column 'fold', which data.source.split asks for"):
        split([{"user": "a", "item": "s", "timestamp": 1.0}], GivenSplit("fold"), without="split")


@pytest.mark.parametrize("ratio", [(0, 1, 1), (8, -1, 1), (8, 1)])
def test_a_ratio_is_three_shares(ratio: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"data\.source\.split\.ratio is .*; expected the shares of train, valid and"):
        GlobalTime(ratio=ratio)


@pytest.mark.parametrize("splitter", [LeaveOneOut, GlobalTime])
def test_users_are_trained_on(splitter: type) -> None:
    with pytest.raises(ValueError, match=r"data\.source\.split\.min_train is 0"):
        splitter(min_train=0)
