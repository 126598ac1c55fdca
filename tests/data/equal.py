"""Comparison of data sets."""

import dataclasses
from typing import Any

from atspeed.data import Dataset


def content(data: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is known of each item, by its name, and each user's items in three splits, by their names."""
    names = data.items["item"].to_pylist()
    splits = zip(data.users, *(split.tolist() for split in (data.train, data.valid, data.test)), strict=True)
    return (
        {known.pop("item"): known for known in data.items.to_pylist()},
        {user: [[names[item] for item in split] for split in parts] for user, *parts in splits},
    )


def assert_equal(found: Dataset, expected: Dataset) -> None:
    """Fail unless both data sets have the same users, items, semantic IDs, metadata and sequences, in any order."""
    assert len(found.users) == len(expected.users)
    assert set(found.items.column_names) == set(expected.items.column_names)
    for (one, other), what in zip(zip(content(found), content(expected), strict=True), ("item", "user"), strict=True):
        assert one.keys() == other.keys(), f"other {what}s"
        differing = [name for name in one if one[name] != other[name]]
        assert not differing, f"{len(differing)} {what}s differ, such as {differing[0]!r}"


def without_metadata(data: Dataset) -> Dataset:
    """Return a data set whose items have names and semantic IDs only."""
    return dataclasses.replace(data, items=data.items.select(["item", "sid"]))
