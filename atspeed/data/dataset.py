"""A data set: who interacted with what, in three splits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atspeed.catalog.item_catalog import POPULARITY, ItemCatalog
from atspeed.data.item_sequences import ItemSequences

SPLITS = ("train", "valid", "test")
"""Names of the splits, in time order."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set.

    Attributes:
        items: a row per item: ``item``, its name (string); ``sid``, the codes of its semantic ID (list of strings), a
            column that is missing as long as there are none; and what else is known, such as ``title``.
        users: user names; the three splits are in the same order.
        train: each user's items (rows of ``items``, which are catalog indices) in time order.
        valid: the items that came next; empty for a user without any.
        test: the items after those; empty for a user without any.
        skipped: what of the source is not in here: reason → how many.
        origin: where it comes from, ready for JSON: the source's class and settings, and when it was read; empty where
            nobody has noted it.

    Raises:
        ValueError: if two items have one name, or a split does not have one sequence per user.
    """

    items: pa.Table
    users: Sequence[str]
    train: ItemSequences
    valid: ItemSequences
    test: ItemSequences
    skipped: Mapping[str, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = self.items["item"]
        if pc.count_distinct(names).as_py() < len(names):
            twice = next(each["values"] for each in pc.value_counts(names).to_pylist() if each["counts"] > 1)
            raise ValueError(f"two items are called {twice!r}")
        for split in SPLITS:
            found = len(getattr(self, split))
            if found != len(self.users):
                raise ValueError(f"the split {split!r} has {found} sequences; expected one per user, {len(self.users)}")

    @property
    def has_sids(self) -> bool:
        """Whether the items have semantic IDs."""
        return "sid" in self.items.column_names

    @cached_property
    def catalog(self) -> ItemCatalog:
        """The items and their semantic IDs.

        Raises:
            ValueError: if they have none, or not all of the same length.
        """
        if not self.has_sids:
            raise ValueError(
                "the items of data.source have no semantic IDs; make some with: python -m atspeed semantic-ids, "
                "and name the file that it writes by data.source.sids"
            )
        return ItemCatalog.from_table(self.items)

    @cached_property
    def popularity(self) -> np.ndarray:
        """How many training interactions each item has, ``[items]``, int64."""
        if POPULARITY in self.items.column_names:
            return self.items[POPULARITY].to_numpy()
        return np.bincount(self.train.values, minlength=self.items.num_rows)

    def with_sids(self, sids: pa.Table, skip_missing: bool) -> "Dataset":
        """Return the data set with semantic IDs; items that only ``sids`` has come last.

        Args:
            sids: columns ``item`` and ``sid``; see :attr:`items`.
            skip_missing: whether items without a semantic ID are left out, with the interactions that they are in; they
                are counted in ``skipped``.

        Raises:
            ValueError: if an item of an interaction has no semantic ID and must not be left out.
        """
        rows = pc.index_in(self.items["item"], sids["item"]).combine_chunks()
        new = sids.filter(pc.invert(pc.is_in(sids["item"], self.items["item"])))
        known = self.items.drop_columns("sid") if self.has_sids else self.items
        items = pa.concat_tables(
            [known.append_column("sid", sids["sid"].take(rows)), new], promote_options="default"
        ).combine_chunks()
        full = replace(self, items=items)
        return full.keep_items(pc.is_valid(items["sid"]).to_numpy(), "semantic ID", skip_missing)

    def keep_items(self, kept: np.ndarray, what: str, skip_missing: bool) -> "Dataset":
        """Return the data set without some of its items.

        Args:
            kept: which items stay, ``[items]``, bool.
            what: what the others lack, such as "semantic ID".
            skip_missing: whether interactions with the others may be left out; they are counted in ``skipped``.

        Raises:
            ValueError: if there are interactions with the others and they must not be left out.
        """
        if kept.all():
            return self
        splits = self.train, self.valid, self.test
        values = np.concatenate([split.values for split in splits])
        lost = values[~kept[values]]
        if len(lost) and not skip_missing:
            name = self.items["item"][int(lost[0])].as_py()
            raise ValueError(
                f"item {name!r} has no {what}, and {len(lost)} interactions are with such items; give them one, or "
                "leave these interactions out by data.source.skip_malformed"
            )
        number = kept.cumsum() - 1  # of each item among those that stay
        train, valid, test = (split.keep(kept[split.values], number) for split in splits)
        skipped = {**self.skipped, f"items without {what}": int((~kept).sum())}
        if len(lost):
            skipped[f"interactions with an item without {what}"] = len(lost)
        return Dataset(self.items.filter(pa.array(kept)), self.users, train, valid, test, skipped, self.origin)


def item_table(
    names: Iterable[str], sids: Iterable[Sequence[str] | None] | None = None, **metadata: Iterable[str | None]
) -> pa.Table:
    """Return a table for :attr:`Dataset.items`.

    >>> item_table(["soap", "comb"], [["<a_0>", "<b_1>"], ["<a_2>", "<b_1>"]], title=["Olive soap", None]).column_names
    ['item', 'sid', 'title']
    """
    columns = {"item": pa.array(list(names), pa.string())}
    if sids is not None:
        columns["sid"] = pa.array(sids, pa.list_(pa.string()))
    return pa.table({**columns, **{name: pa.array(values, pa.string()) for name, values in metadata.items()}})
