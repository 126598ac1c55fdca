"""The catalog: items and their semantic IDs."""

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

ItemIndices = Sequence[int] | np.ndarray
"""Items by their catalog index; an array is of integers, ``[items]``."""
POPULARITY = "train_interactions"
"""Column of a table of items that come without interactions: how many each had in training."""
EXPECTED_SID = "expected a list of one or more codes"


def _natural_key(word: str) -> list[tuple[bool, int, str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", word) if part]


class ItemCatalog:
    """Items ⇄ semantic IDs (SIDs) of one fixed length, held as arrays.

    Several items may share one SID (a collision); all of them are kept::

        item      SID              words  <a_0> <a_2> <b_1>
        soap      <a_0> <b_1>      codes  [[0, 2],
        comb      <a_2> <b_1>              [1, 2],
        sponge    <a_0> <b_1>              [0, 2]]

    Args:
        sids: item name → its codes, the same number for every item.
        titles: item name → its title, for prompts that write titles; an item may lack one.

    Attributes:
        names: item names by item index.
        titles: their titles, None for an item without one; None if the catalog has no titles.
        words: the distinct codes as they are written, in natural order unless another one is given.
        codes: each item's SID as indices into ``words``, ``[num_items, L]``, int32.

    Raises:
        ValueError: if there is no item, an empty SID, or SIDs of different lengths.

    >>> catalog = ItemCatalog({"soap": ["<a_0>", "<b_1>"], "comb": ["<a_2>", "<b_1>"], "sponge": ["<a_0>", "<b_1>"]})
    >>> catalog.num_items, catalog.num_levels, catalog.index("comb"), catalog.sid(1)
    (3, 2, 1, ('<a_2>', '<b_1>'))
    >>> catalog.codes.tolist(), catalog.items(["<a_0>", "<b_1>"])
    ([[0, 2], [1, 2], [0, 2]], [0, 2])
    """

    def __init__(self, sids: Mapping[str, Sequence[str]], titles: Mapping[str, str] | None = None) -> None:
        for name, sid in sids.items():
            if isinstance(sid, str):
                raise ValueError(f"item {name!r} has the semantic ID {sid!r}; {EXPECTED_SID}")
        self._read(pa.array(list(sids), pa.string()), pa.array(list(sids.values()), pa.list_(pa.string())))
        self.titles: tuple[str | None, ...] | None = None if titles is None else tuple(map(titles.get, sids))

    @classmethod
    def from_table(cls, items: pa.Table, words: Sequence[str] | None = None) -> "ItemCatalog":
        """Return the catalog of items in columns, without a Python object per code.

        Args:
            items: the columns ``item``, each name once (string), ``sid``, the codes (list of strings), and
                ``title`` (string), where titles are known.
            words: the codes that a model has learnt, in their order, whether an item has them or not; by default those
                that the items have.

        Raises:
            ValueError: as the constructor, or if an item has a code that ``words`` lacks.
        """
        catalog = cls.__new__(cls)
        catalog._read(items["item"].combine_chunks(), items["sid"].combine_chunks(), words)
        catalog.titles = tuple(items["title"].to_pylist()) if "title" in items.column_names else None
        return catalog

    def _read(self, names: pa.Array, sids: pa.Array, words: Sequence[str] | None = None) -> None:
        if not len(names):
            raise ValueError("the catalog has no item")
        self.names = tuple(names.to_pylist())
        lengths = pc.list_value_length(sids).fill_null(0).to_numpy(zero_copy_only=False)
        num_levels = int(lengths[0])
        wrong = np.flatnonzero((lengths == 0) | (lengths != num_levels))
        if len(wrong):
            self._refuse(int(wrong[0]), sids[int(wrong[0])].as_py(), num_levels)
        flat = sids.flatten()
        if flat.null_count:
            item = int(np.flatnonzero(flat.is_null())[0]) // num_levels
            self._refuse(item, sids[item].as_py(), num_levels)
        encoded = flat.dictionary_encode()
        found = encoded.dictionary.to_pylist()  # the distinct codes, in order of first use
        self.words = tuple(sorted(found, key=_natural_key) if words is None else words)
        code_of_word = self._code_of_word
        code = np.array([code_of_word.get(word, -1) for word in found], np.int32)  # of each distinct code
        codes = code[encoded.indices.to_numpy()].reshape(-1, num_levels)
        if (code < 0).any():
            item, level = np.argwhere(codes < 0)[0]
            raise ValueError(
                f"item {self.names[item]!r} has the code {sids[int(item)].as_py()[level]!r}, which the model has not "
                f"learnt; it knows {len(self.words)} codes, from {self.words[0]!r} to {self.words[-1]!r}"
            )
        self.codes = torch.from_numpy(codes)

    def _refuse(self, item: int, sid: list[str | None] | None, num_levels: int) -> NoReturn:
        name = self.names[item]
        if not sid or None in sid:
            raise ValueError(f"item {name!r} has the semantic ID {sid!r}; {EXPECTED_SID}")
        raise ValueError(
            f"item {name!r} has a semantic ID of {len(sid)} codes, item {self.names[0]!r} one of {num_levels}; all "
            "must have the same length"
        )

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
