"""The catalog's prefix tree as flat arrays."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

ROOT = 0  # node of the empty prefix; also what pads a list of nodes
END = -1  # pads semantic IDs that are shorter than others


class Spans(NamedTuple):
    """Concatenated spans: one list a row, made of the spans of the row's keys in their order.

    Attributes:
        values: ``[B, W]``, int64; 0 where the mask is False.
        source: which key a value belongs to, ``[B, W]``, int64.
        mask: True where there is a value, ``[B, W]``, bool.
        start: place of the first value of each key, ``[B, K]``, int64.
    """

    values: Tensor
    source: Tensor
    mask: Tensor
    start: Tensor


class ItemTrie:
    """Prefixes of semantic IDs, numbered breadth-first, so that a prefix is an integer and children are contiguous.

    Node 0 is the root (the empty prefix); a node's *depth* is the number of codes in its prefix; a node without
    children is a *leaf*, a whole semantic ID. ``M`` is the number of nodes. Each takes 56 bytes, each item 16 more.

    Args:
        sids: token ids of each item's semantic ID, ``[num_items, L]``, int64. Several items may share one. A shorter
            one is padded with -1 at its end; then none may be the beginning of another, which an end token ensures.

    Attributes:
        num_levels: ``L``, the length of the longest semantic ID.
        num_leaves: number of distinct semantic IDs.
        has_one_length: whether all of them have L codes.
        token: last token of each prefix, ``[M]``; 0 for the root.
        parent: ``[M]``; the root is its own parent.
        num_children: ``[M]``.
        first_child: ``[M]``; the children of ``n`` are ``first_child[n] … first_child[n] + num_children[n] - 1``.
        depth_start: first node of each depth, and ``M``; ``L + 2`` integers.
        subtree_size: nodes that are no leaves in the subtree of ``n``, itself included, ``[M]``.
        items: item indices in the order of their semantic IDs, ``[num_items]``.
        first_item: the items below ``n`` are ``items[first_item[n] : first_item[n] + num_items[n]]``, ``[M]``.
        num_items: ``[M]``.

    Raises:
        ValueError: if ``sids`` is not a non-empty matrix, or a semantic ID is empty, has a hole, or is the beginning
            of another.

    >>> trie = ItemTrie(torch.tensor([[3, 5], [3, 6], [4, 5], [3, 6]]))
    >>> trie.num_nodes, trie.depth_start, trie.first_child.tolist()
    (6, [0, 1, 3, 6], [1, 3, 5, 6, 6, 6])
    >>> trie.concatenated_items(torch.tensor([[4, 5], [3, 0]]), limit=20).tolist()
    [[1, 3, 2], [0, -1, -1]]
    """

    def __init__(self, sids: Tensor) -> None:
        if sids.ndim != 2 or 0 in sids.shape:
            raise ValueError(
                f"semantic IDs have the shape {tuple(sids.shape)}; expected [items, levels], none of them 0"
            )
        self.num_levels = sids.shape[1]
        _check_ends(sids)
        order = torch.arange(len(sids))
        for level in reversed(range(self.num_levels)):  # a stable sort from the last column to the first: rows by code
            order = order[sids[order, level].argsort(stable=True)]
        rows = sids[order]
        differs = torch.ones_like(rows, dtype=torch.bool)
        differs[1:] = (rows[1:] != rows[:-1]).cumsum(1) > 0  # [items, L]: does this row start another prefix?

        root = torch.zeros(1, dtype=torch.long)
        tokens, parents, first_items, num_items = [root], [root], [root], [root + len(rows)]
        node = torch.zeros(len(rows), dtype=torch.long)  # node of each row at the depth so far
        self.depth_start = [0, 1]
        for level in range(self.num_levels):
            start = differs[:, level].nonzero()[:, 0]
            count = start.diff(append=torch.tensor([len(rows)]))
            exists = rows[start, level] != END
            start, count = start[exists], count[exists]
            tokens.append(rows[start, level])
            parents.append(node[start])
            first_items.append(start)
            num_items.append(count)
            opens = differs[:, level] & (rows[:, level] != END)
            node = torch.where(rows[:, level] != END, self.depth_start[-1] + opens.cumsum(0) - 1, node)
            self.depth_start.append(self.depth_start[-1] + len(start))
        self.token, self.parent = torch.cat(tokens), torch.cat(parents)
        self.first_item, self.num_items = torch.cat(first_items), torch.cat(num_items)
        self.num_children = torch.bincount(self.parent[1:], minlength=self.num_nodes)
        self.num_leaves = int((self.num_children == 0).sum())
        self.has_one_length = self.num_leaves == self.depth_start[-1] - self.depth_start[-2]
        if self.num_children[node].any():
            item = int(order[self.num_children[node].nonzero()[0, 0]])
            raise ValueError(
                f"the semantic ID {sids[item][sids[item] != END].tolist()} is the beginning of another one: end each "
                "with an end token"
            )
        self.first_child = 1 + self.num_children.cumsum(0) - self.num_children
        self.subtree_size = (self.num_children > 0).long()
        for begin, end in reversed(list(pairwise(self.depth_start[1:]))):
            self.subtree_size.index_add_(0, self.parent[begin:end], self.subtree_size[begin:end].clone())
        self.items = order
        self._leaf_of_item = torch.empty_like(order)
        self._leaf_of_item[order] = node
        self._depth_bounds = torch.tensor(self.depth_start[1:])

    @property
    def num_nodes(self) -> int:
        """Number of nodes, ``M``."""
        return self.depth_start[-1]

    def to(self, device: torch.device | str) -> "ItemTrie":
        """Move the arrays to a device; returns itself."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def depth(self, nodes: Tensor) -> Tensor:
        """Return the depth of nodes, the same shape."""
        return torch.bucketize(nodes.contiguous(), self._depth_bounds, right=True)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Return which nodes are whole semantic IDs, the same shape, bool."""
        return self.num_children[nodes] == 0

    def path(self, nodes: Tensor) -> Tensor:
        """Return each node and its ancestors below the root, nearest first, root-padded: ``[…] → […, L]``."""
        path = [nodes]
        for _ in range(self.num_levels - 1):
            path.append(self.parent[path[-1]])
        return torch.stack(path, dim=-1)

    def codes(self, nodes: Tensor) -> Tensor:
        """Return the codes of prefixes, first to last, padded with -1 at the end: ``[…] → […, L]``."""
        last = self.depth(nodes)[..., None] - 1
        steps_up = last - torch.arange(self.num_levels, device=nodes.device)  # from the node to its code of each level
        return torch.where(steps_up < 0, END, self.token[self.path(nodes).gather(-1, steps_up.clamp(min=0))])

    def children(self, nodes: Tensor, valid: Tensor, limit: int | None = None) -> Spans:
        """Return the children of all nodes of a row in one list, in the order of their parents.

        Args:
            nodes: ``[B, K]``.
            valid: False where a node is padding, ``[B, K]``, bool.
            limit: the lists are cut after so many.
        """
        return concatenate_spans(self.first_child[nodes], self.num_children[nodes] * valid, limit)

    def concatenated_items(self, leaves: Tensor, limit: int, item_mask: Tensor | None = None) -> Tensor:
        """Return the items of all leaves of a row in one list: all items of a shared semantic ID, side by side.

        Args:
            leaves: ``[B, W]``; root entries are padding.
            limit: the list is cut after so many.
            item_mask: True for the items that are wanted, ``[B, num_items]``, bool; all if not given.

        Returns:
            item indices, ``[B, T]``, padded with -1, with T the longest list's length, at most ``limit``.
        """
        places = concatenate_spans(self.first_item[leaves], self.num_items[leaves] * (leaves != ROOT))
        items, wanted = self.items[places.values], places.mask
        if item_mask is not None:
            wanted = wanted & item_mask.gather(1, items)
            order = (~wanted).byte().argsort(dim=1, stable=True)
            items, wanted = items.gather(1, order), wanted.gather(1, order)
        width = min(limit, int(wanted.sum(1).max()))
        return torch.where(wanted, items, -1)[:, :width]

    def leaves(self, items: Tensor) -> Tensor:
        """Return the leaf of each item index, the same shape."""
        return self._leaf_of_item[items]

    def node_mask(self, item_mask: Tensor) -> Tensor:
        """Return which nodes have an item below them that is wanted: bool, ``[…, num_items] → […, M]``."""
        wanted = torch.nn.functional.pad(item_mask[..., self.items].cumsum(-1), (1, 0))
        return wanted[..., self.first_item + self.num_items] > wanted[..., self.first_item]


def concatenate_spans(first: Tensor, count: Tensor, limit: int | None = None) -> Spans:
    """Concatenate the spans ``first … first + count - 1`` of each row's keys, ``[B, K]`` each; see :class:`Spans`."""
    ends = count.cumsum(1)
    start, length = ends - count, ends[:, -1:]
    width = int(length.max())
    place = torch.arange(width if limit is None else min(limit, width), device=first.device).expand(len(first), -1)
    source = torch.searchsorted(ends, place.contiguous(), right=True).clamp_(max=first.shape[1] - 1)  # [B, W]
    mask = place < length
    return Spans((place + (first - start).gather(1, source)) * mask, source, mask, start)


def _check_ends(sids: Tensor) -> None:
    ended = sids == END
    if ended.any():
        if ended[:, 0].any():
            raise ValueError(f"the semantic ID of item {int(ended[:, 0].nonzero()[0, 0])} is empty")
        holes = (ended[:, :-1] & ~ended[:, 1:]).any(1)
        if holes.any():
            raise ValueError(f"the semantic ID of item {int(holes.nonzero()[0, 0])} goes on after -1, its end")
