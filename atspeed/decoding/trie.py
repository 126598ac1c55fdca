"""The catalog's prefix tree as flat arrays."""

import torch
from torch import Tensor

ROOT = 0  # node of the empty prefix; also what pads a list of nodes, since it never needs a token of its own


class ItemTrie:
    """Prefixes of semantic IDs, numbered breadth-first, so that a prefix is an integer and children are contiguous.

    Node 0 is the root (the empty prefix); a node's *depth* is the number of codes in its prefix; nodes of depth ``L``
    are leaves. ``M`` is the number of nodes.

    Args:
        sids: token ids of each item's semantic ID, ``[num_items, L]``, int64. Several items may share one.

    Attributes:
        num_levels: ``L``.
        token: last token of each prefix, ``[M]``; 0 for the root.
        parent: ``[M]``; the root is its own parent.
        first_child: ``[M + 1]``; the children of ``n`` are ``first_child[n] … first_child[n + 1] - 1``.
        depth_start: first node of each depth, and ``M``; ``L + 2`` integers.
        max_children: most children of a node, by depth; ``L`` integers.
        first_item: ``[leaves + 1]``; leaf ``M - leaves + i`` holds ``items[first_item[i] : first_item[i + 1]]``.
        items: item indices by leaf, ``[num_items]``.

    Raises:
        ValueError: if ``sids`` is not a non-empty matrix.

    >>> trie = ItemTrie(torch.tensor([[3, 5], [3, 6], [4, 5], [3, 6]]))
    >>> trie.num_nodes, trie.depth_start, trie.first_child.tolist()
    (6, [0, 1, 3, 6], [1, 3, 5, 6, 6, 6, 6])
    >>> trie.concatenated_items(torch.tensor([[4, 5], [3, 0]]), limit=20).tolist()
    [[1, 3, 2], [0, -1, -1]]
    """

    def __init__(self, sids: Tensor) -> None:
        if sids.ndim != 2 or 0 in sids.shape:
            raise ValueError(
                f"semantic IDs have the shape {tuple(sids.shape)}; expected [items, levels], none of them 0"
            )
        self.num_levels = sids.shape[1]
        order = torch.arange(len(sids))
        for level in reversed(range(self.num_levels)):  # a stable sort from the last column to the first: rows by code
            order = order[sids[order, level].argsort(stable=True)]
        rows = sids[order]
        differs = torch.ones_like(rows, dtype=torch.bool)
        differs[1:] = (rows[1:] != rows[:-1]).cumsum(1) > 0  # [items, L]: does this row open a node of depth l + 1?

        tokens, parents = [torch.zeros(1, dtype=torch.long)], [torch.zeros(1, dtype=torch.long)]
        node = torch.zeros(len(rows), dtype=torch.long)  # node of each row at the depth so far
        self.depth_start = [0, 1]
        for level in range(self.num_levels):
            opens = differs[:, level]
            tokens.append(rows[opens, level])
            parents.append(node[opens])
            node = self.depth_start[-1] + opens.cumsum(0) - 1
            self.depth_start.append(self.depth_start[-1] + int(opens.sum()))
        self.token, self.parent = torch.cat(tokens), torch.cat(parents)
        num_children = torch.bincount(self.parent[1:], minlength=self.num_nodes)
        self.first_child = 1 + torch.nn.functional.pad(num_children.cumsum(0), (1, 0))
        spans = zip(self.depth_start[:-2], self.depth_start[1:-1], strict=True)
        self.max_children = [int(num_children[start:end].max()) for start, end in spans]
        leaf = node - self.depth_start[-2]
        self.first_item = torch.nn.functional.pad(torch.bincount(leaf).cumsum(0), (1, 0))
        self.items = order
        self._leaf_of_item = torch.empty_like(order)
        self._leaf_of_item[order] = node
        self._depth_bounds = torch.tensor(self.depth_start[1:])

    @property
    def num_nodes(self) -> int:
        """Number of nodes, ``M``."""
        return self.depth_start[-1]

    @property
    def num_leaves(self) -> int:
        """Number of distinct semantic IDs."""
        return self.depth_start[-1] - self.depth_start[-2]

    def to(self, device: torch.device | str) -> "ItemTrie":
        """Move the arrays to a device; returns itself."""
        for name in ("token", "parent", "first_child", "first_item", "items", "_leaf_of_item", "_depth_bounds"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def depth(self, nodes: Tensor) -> Tensor:
        """Return the depth of nodes, the same shape."""
        return torch.bucketize(nodes.contiguous(), self._depth_bounds, right=True)

    def num_children(self, nodes: Tensor) -> Tensor:
        """Return the number of children of nodes, the same shape."""
        return self.first_child[nodes + 1] - self.first_child[nodes]

    def path(self, nodes: Tensor) -> Tensor:
        """Return each node and its ancestors below the root, nearest first, root-padded: ``[…] → […, L]``."""
        path = [nodes]
        for _ in range(self.num_levels - 1):
            path.append(self.parent[path[-1]])
        return torch.stack(path, dim=-1)

    def children(self, nodes: Tensor, width: int) -> tuple[Tensor, Tensor]:
        """Return the children of nodes, ``[…, width]``, and a mask of those that exist."""
        place = torch.arange(width, device=nodes.device)
        mask = place < self.num_children(nodes)[..., None]
        return torch.where(mask, self.first_child[nodes][..., None] + place, ROOT), mask

    def concatenated_children(self, nodes: Tensor, limit: int) -> Tensor:
        """Return the children of all nodes of a row in one list, in the order of their parents.

        Args:
            nodes: ``[B, W]``; root entries are padding and have no children here.
            limit: the list is cut after so many.

        Returns:
            ``[B, T]``, root-padded, with T the longest list's length, at most ``limit``.
        """
        children, mask = _concatenate_spans(self.first_child, nodes, nodes != ROOT, limit)
        return torch.where(mask, children, ROOT)

    def concatenated_items(self, leaves: Tensor, limit: int) -> Tensor:
        """Return the items of all leaves of a row in one list: all items of a shared semantic ID, side by side.

        Args:
            leaves: ``[B, W]``; root entries are padding.
            limit: the list is cut after so many.

        Returns:
            item indices, ``[B, T]``, padded with -1, with T the longest list's length, at most ``limit``.
        """
        leaf = (leaves - self.depth_start[-2]).clamp(min=0)
        places, mask = _concatenate_spans(self.first_item, leaf, leaves != ROOT, limit)
        return torch.where(mask, self.items[torch.where(mask, places, 0)], -1)

    def leaves(self, items: Tensor) -> Tensor:
        """Return the leaf of each item index, the same shape."""
        return self._leaf_of_item[items]


def _concatenate_spans(first: Tensor, keys: Tensor, valid: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Concatenate the spans ``first[key] … first[key + 1] - 1`` of a row's keys ``[B, W]``; ``([B, T], mask)``."""
    counts = (first[keys + 1] - first[keys]) * valid
    ends = counts.cumsum(1)
    width = min(limit, int(ends[:, -1].max()))
    place = torch.arange(width, device=keys.device).expand(len(keys), width).contiguous()  # [B, T]
    span = torch.searchsorted(ends, place, right=True).clamp(max=keys.shape[1] - 1)
    return first[keys.gather(1, span)] + place - (ends - counts).gather(1, span), place < ends[:, -1:]
