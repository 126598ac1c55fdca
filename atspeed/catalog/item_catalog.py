"""The catalog: items and their semantic IDs."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from atspeed.catalog.vocabulary import Vocabulary


def _natural_key(code: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", code) if part]


class ItemCatalog:
    """Items ⇄ semantic IDs (SIDs) of one fixed length.

    Several items may share one SID (a collision); all of them are kept.

    Args:
        sids: item name → its codes, the same number for every item.

    Attributes:
        names: item names by item index.
        vocabulary: the special tokens and all codes, in natural order.
        tokens: token ids of each item's SID, shape ``[num_items, L]``, int64.

    Raises:
        ValueError: if there is no item, an empty SID, or SIDs of different lengths.

    >>> catalog = ItemCatalog({"soap": ["<a_0>", "<b_1>"], "comb": ["<a_0>", "<b_2>"]})
    >>> catalog.num_items, catalog.num_levels, catalog.index("comb"), catalog.sid(1)
    (2, 2, 1, ('<a_0>', '<b_2>'))
    >>> catalog.items(['<a_0>', '<b_1>'])
    [0]
    """

    def __init__(self, sids: Mapping[str, Sequence[str]]) -> None:
        if not sids:
            raise ValueError("the catalog has no item")
        self.names = tuple(sids)
        self._sids = tuple(tuple(codes) for codes in sids.values())
        num_levels = len(self._sids[0])
        for name, codes in sids.items():
            if isinstance(codes, str) or not codes:
                raise ValueError(f"item {name!r} has the semantic ID {codes!r}; expected a list of one or more codes")
            if len(codes) != num_levels:
                raise ValueError(
                    f"item {name!r} has a semantic ID of {len(codes)} codes, item {self.names[0]!r} one of "
                    f"{num_levels}; all must have the same length"
                )
        self.vocabulary = Vocabulary(sorted({code for codes in self._sids for code in codes}, key=_natural_key))
        self.tokens = torch.tensor([[self.vocabulary.token(code) for code in codes] for codes in self._sids])
        self._index = {name: item for item, name in enumerate(self.names)}
        self._items: dict[tuple[str, ...], list[int]] = {}
        for item, codes in enumerate(self._sids):
            self._items.setdefault(codes, []).append(item)

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.names)

    @property
    def num_levels(self) -> int:
        """Number of codes in a semantic ID, ``L``."""
        return self.tokens.shape[1]

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def index(self, name: str) -> int:
        """Return the index of the item called ``name``; raise ``ValueError`` if the catalog does not have it."""
        if name not in self._index:
            raise ValueError(f"item {name!r} is not in the catalog ({self.num_items} items, e.g. {self.names[0]!r})")
        return self._index[name]

    def sid(self, item: int) -> tuple[str, ...]:
        """Return the codes of an item, by its index."""
        return self._sids[item]

    def items(self, sid: Sequence[str]) -> list[int]:
        """Return the indices of all items with these codes, in the order of the catalog; empty if there is none."""
        return self._items.get(tuple(sid), [])

    def encode(self, items: Sequence[int]) -> Tensor:
        """Return the token ids of items, shape ``[len(items), L]``."""
        return self.tokens[torch.as_tensor(items, dtype=torch.long)]
