"""A catalog whose arrays have room, so that another one can be copied into them."""

import copy
import math

import torch
from torch import Tensor

from atspeed.decoding.sizing import Fixed
from atspeed.decoding.trie import ItemTrie

NODE_COLUMNS = ("token", "rider", "num_riders", "parent", "num_children", "first_child", "subtree_size", "num_items")
"""What decoding reads of each node."""
SAME = ("max_depth", "num_levels", "num_calls", "num_prefix", "has_one_length")
"""What operations depend on, besides sizes."""


class FixedTrie:
    """The arrays of a catalog at fixed addresses, with room for more nodes, and for nodes with more children.

    Args:
        trie: the first catalog.
        room: additional nodes, and additional children of a level's widest node, as a share of those there are.
    """

    def __init__(self, trie: ItemTrie, room: float) -> None:
        self._room = copy.copy(trie)
        self._room.widest = [math.ceil(width * (1 + room)) for width in trie.widest]
        num_nodes = math.ceil(trie.num_nodes * (1 + room))
        for name in NODE_COLUMNS:
            if (column := getattr(trie, name)) is not None:
                setattr(self._room, name, column.new_zeros(num_nodes))
        self._room._depth_bounds = trie._depth_bounds.clone()
        self._loaded = self._room
        self.load(trie)

    def __getitem__(self, least_depth: int) -> ItemTrie:
        """Return the catalog as a round sees it whose beams are at least so deep."""
        trie = copy.copy(self._room)
        trie.sizing = Fixed(least_depth)
        return trie

    @property
    def num_nodes(self) -> int:
        """How many nodes there is room for."""
        return len(self._room.parent)

    def has_room_for(self, trie: ItemTrie) -> bool:
        """Return whether the same operations search another catalog, too."""
        room = self._room
        return (
            trie.num_nodes <= self.num_nodes
            and all(getattr(trie, name) == getattr(room, name) for name in SAME)
            and all(width <= most for width, most in zip(trie.widest, room.widest, strict=True))
            and (trie.rider is None) == (room.rider is None)
            and trie.longest_ride <= room.longest_ride
            and all(any(a <= c and d <= b for a, b in room.token_spans) for c, d in trie.token_spans)
        )

    def load(self, trie: ItemTrie) -> None:
        """Copy a catalog into the arrays, unless it is there. What is left behind it nothing leads to or allows."""
        if trie is self._loaded:
            return
        for name in NODE_COLUMNS:
            if (column := getattr(self._room, name)) is not None:
                column[: trie.num_nodes].copy_(getattr(trie, name))
        self._room._depth_bounds.copy_(trie._depth_bounds)
        self._loaded = trie

    def in_room(self, allowed: Tensor | None) -> Tensor:
        """Return what requests allow of the nodes, ``[B, M]`` or, for all requests, ``[1, M]``; None allows all.

        False for nodes that there is room for, but that the catalog does not have.
        """
        if allowed is None:
            return (torch.arange(self.num_nodes, device=self._loaded.parent.device) < self._loaded.num_nodes)[None]
        return torch.nn.functional.pad(allowed, (0, self.num_nodes - allowed.shape[1]))
