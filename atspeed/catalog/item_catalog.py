"""The catalog: items and their semantic IDs."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog.vocabulary import Vocabulary

ItemIndices = Sequence[int] | np.ndarray
"""Items by their catalog index; an array is of integers, ``[items]``."""


def _natural_key(word: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", word) if part]


class ItemCatalog:
    """Items ⇄ semantic IDs (SIDs) of one fixed length, held as arrays.

    Several items may share one SID (a collision); all of them are kept::

        item      SID              words  <a_0> <a_2> <b_1>
        soap      <a_0> <b_1>      codes  [[0, 2],          tokens  [[3, 5],
        comb      <a_2> <b_1>              [1, 2],                   [4, 5],
        sponge    <a_0> <b_1>              [0, 2]]                   [3, 5]]

    Args:
        sids: item name → its codes, the same number for every item.

    Attributes:
        names: item names by item index.
        words: the distinct codes as they are written, in natural order.
        codes: each item's SID as indices into ``words``, ``[num_items, L]``, int32.
        vocabulary: the special tokens and ``words``.
        tokens: each item's SID as token ids of ``vocabulary``, ``[num_items, L]``, int64.

    Raises:
        ValueError: if there is no item, an empty SID, or SIDs of different lengths.

    >>> catalog = ItemCatalog({"soap": ["<a_0>", "<b_1>"], "comb": ["<a_2>", "<b_1>"], "sponge": ["<a_0>", "<b_1>"]})
    >>> catalog.num_items, catalog.num_levels, catalog.index("comb"), catalog.sid(1)
    (3, 2, 1, ('<a_2>', '<b_1>'))
    >>> catalog.codes.tolist(), catalog.items(["<a_0>", "<b_1>"])
    ([[0, 2], [1, 2], [0, 2]], [0, 2])
    """

    def __init__(self, sids: Mapping[str, Sequence[str]]) -> None:
        if not sids:
            raise ValueError("the catalog has no item")
        self.names = tuple(sids)
        num_levels = len(sids[self.names[0]])
        for name, sid in sids.items():
            if isinstance(sid, str) or not sid:
                raise ValueError(f"item {name!r} has the semantic ID {sid!r}; expected a list of one or more codes")
            if len(sid) != num_levels:
                raise ValueError(
                    f"item {name!r} has a semantic ID of {len(sid)} codes, item {self.names[0]!r} one of "
                    f"{num_levels}; all must have the same length"
                )
        self.words = tuple(sorted(set(chain.from_iterable(sids.values())), key=_natural_key))
        codes = map(self._code_of_word.__getitem__, chain.from_iterable(sids.values()))
        flat = np.fromiter(codes, np.int32, count=len(sids) * num_levels)
        self.codes = torch.from_numpy(flat).view(-1, num_levels)
        self.vocabulary = Vocabulary(self.words)
        self.tokens = torch.tensor([self.vocabulary.token(word) for word in self.words])[self.codes]

    @property
    def num_items(self) -> int:
        """Number of items."""
        return len(self.names)

    @property
    def num_levels(self) -> int:
        """Number of codes in a semantic ID, ``L``."""
        return self.codes.shape[1]

    @cached_property
    def _code_of_word(self) -> dict[str, int]:
        return {word: code for code, word in enumerate(self.words)}

    @cached_property
    def _item_of_name(self) -> dict[str, int]:
        return {name: item for item, name in enumerate(self.names)}

    def __contains__(self, name: str) -> bool:
        return name in self._item_of_name

    def index(self, name: str) -> int:
        """Return the index of the item called ``name``; raise ``ValueError`` if the catalog does not have it."""
        if name not in self:
            raise ValueError(f"item {name!r} is not in the catalog ({self.num_items} items, e.g. {self.names[0]!r})")
        return self._item_of_name[name]

    def sid(self, item: int) -> tuple[str, ...]:
        """Return the codes of an item, by its index."""
        return tuple(self.words[code] for code in self.codes[item].tolist())

    def items(self, sid: Sequence[str]) -> list[int]:
        """Return the indices of all items with these codes, in catalog order; empty if there is none.

        Each call compares the semantic IDs of all items: about 25 ms for a million of them.
        """
        codes = [self._code_of_word.get(word, -1) for word in sid]
        if len(codes) != self.num_levels:
            return []
        return (self.codes == torch.tensor(codes, dtype=torch.int32)).all(1).nonzero()[:, 0].tolist()

    def encode(self, items: ItemIndices) -> Tensor:
        """Return the token ids of items, ``[items, L]``, int64."""
        return self.tokens[torch.tensor(items, dtype=torch.long)]
