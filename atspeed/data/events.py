"""Interactions as columns, before they are split."""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from atspeed.data.dataset import SPLITS
from atspeed.data.item_sequences import ItemSequences


@dataclass(frozen=True, eq=False)
class Events:
    """Interactions in the order of their file, which may be any.

    ::

        user_names  [ann bob]     users  0 1 0 0
        item_names  [soap comb]   items  0 0 1 0
                                  times  5 2 3 3     ann: comb soap soap, bob: soap

    Attributes:
        user_names: distinct names of the users that have an event, by where the file first has them, ``[users]``,
            string.
        item_names: the same of items, ``[items]``, string.
        users: user of each event, ``[events]``, integers.
        items: item of each event, ``[events]``, integers.
        times: when it was, in any unit, ``[events]``, float64, finite.
        ratings: how much the user liked it, ``[events]``, float64, NaN where unknown; None if there are no ratings.
        splits: the given split of each event, index into :data:`SPLITS`, ``[events]``; None if none is given.
    """

    user_names: pa.StringArray
    item_names: pa.StringArray
    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    ratings: np.ndarray | None = None
    splits: np.ndarray | None = None

    @classmethod
    def from_table(cls, table: pa.Table) -> "Events":
        """Return the rows of a table as events.

        Args:
            table: columns ``user`` and ``item`` (string), ``timestamp`` (float64); where they are known ``rating``
                (float64, may be null) and ``split`` (one of :data:`SPLITS`).

        >>> table = pa.table({"user": ["b", "a"], "item": ["soap", "soap"], "timestamp": [2.0, 1.0]})
        >>> events = Events.from_table(table)
        >>> events.user_names.to_pylist(), events.users.tolist(), events.items.tolist()
        (['b', 'a'], [0, 1], [0, 0])
        """
        user_names, users = _encode(table["user"])
        item_names, items = _encode(table["item"])
        ratings = table["rating"].to_numpy() if "rating" in table.column_names else None
        splits = None
        if "split" in table.column_names:
            splits = pc.index_in(table["split"], pa.array(SPLITS)).to_numpy()
        return cls(user_names, item_names, users, items, table["timestamp"].to_numpy(), ratings, splits)

    def __len__(self) -> int:
        return len(self.users)

    def keep(self, kept: np.ndarray) -> "Events":
        """Return some of the events, with the users and items that are left.

        Args:
            kept: which events stay, ``[events]``, bool.
        """
        user_names, users = _drop_unused(self.user_names, self.users[kept])
        item_names, items = _drop_unused(self.item_names, self.items[kept])
        return replace(
            self,
            user_names=user_names,
            item_names=item_names,
            users=users,
            items=items,
            times=self.times[kept],
            ratings=None if self.ratings is None else self.ratings[kept],
            splits=None if self.splits is None else self.splits[kept],
        )

    def sequences(self, kept: np.ndarray | None = None) -> ItemSequences:
        """Return each user's items by time; items of the same time stay in the order of the file.

        Args:
            kept: take these events only, ``[events]``, bool; all if not given.
        """
        users, items, times = self.users, self.items, self.times
        if kept is not None:
            users, items, times = users[kept], items[kept], times[kept]
        offsets = np.zeros(len(self.user_names) + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=len(self.user_names)), out=offsets[1:])
        return ItemSequences(offsets, items[np.lexsort((times, users))].astype(np.int64))  # lexsort is stable


def _encode(names: pa.ChunkedArray) -> tuple[pa.StringArray, np.ndarray]:
    encoded = names.dictionary_encode().combine_chunks()
    return encoded.dictionary, encoded.indices.to_numpy()


def _drop_unused(names: pa.StringArray, codes: np.ndarray) -> tuple[pa.StringArray, np.ndarray]:
    used = np.zeros(len(names), dtype=bool)
    used[codes] = True
    return names.filter(pa.array(used)), (used.cumsum() - 1)[codes]
