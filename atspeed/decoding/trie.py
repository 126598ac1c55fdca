"""The catalog's prefix tree as flat arrays."""

import copy
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding.sizing import MEASURED, Measured
from atspeed.decoding.vocabulary_spans import vocabulary_spans

ROOT = 0  # node of the empty prefix; also what pads a list of nodes
END = -1  # pads semantic IDs that are shorter than others


class Spans(NamedTuple):
    """Some contiguous spans per row, written one after the other into one list per row.

    Three keys of one row, with the spans 4 5 6, nothing, and 9 10::

        first  4 _ 9      count   3 0 2
        values 4 5 6 9 10
        source 0 0 0 2 2
        start  0 3 3

    Attributes:
        values: ``[B, W]``, int64; 0 where the mask is False.
        source: which key a value belongs to, ``[B, W]``, int64.
        mask: True where there is a value, ``[B, W]``, bool.
        start: index of the first value of each key, ``[B, K]``, int64.
    """

    values: Tensor
    source: Tensor
    mask: Tensor
    start: Tensor


class ItemTrie:
    r"""Prefixes of semantic IDs, numbered breadth-first, so that a prefix is an integer and children are contiguous.

    Node 0 is the root (the empty prefix); a node's *depth* is the number of codes in its prefix; a node without
    children is a *leaf*, a complete semantic ID. ``M`` is the number of nodes. Each takes 64 bytes, each item 16 more.
    The items 0 to 3 with the semantic IDs 3 5, 3 6, 4 5 and 3 6::

                 0                    node           0  1  2  3  4  5
              3/   \4                 token          0  3  4  5  6  5
             1       2                parent         0  0  0  1  1  2
           5/ \6     \5               num_children   2  2  1  0  0  0
           3   4       5              first_child    1  3  5  6  6  6
                                      first_item     0  0  3  0  1  3
        items  0 1 3 2                num_items      4  3  1  1  2  1
                                      subtree_size   3  1  1  0  0  0
                                      depth_start    0  1  3  6

    A node stands for codes; which token a model writes a code with is a column of its own, so that models of other
    vocabularies search the same trie (:meth:`for_draft`). What a model writes after the codes, such as a line break and
    an end token, are the *closing* nodes below the last code: its score counts, but nobody has to choose. Nodes that
    nobody has to choose *ride*: the call that scores the node above scores them, too. Here with two closing tokens 8
    and 9, where node 7 rides with 3, 8 with 4, and 9 with 5::

           3   4   5    node             3  4  5  6  7  8  9 10 11
           │   │   │    token            5  6  5  8  8  8  9  9  9
           6   7   8    rider            6  7  8  0  0  0  0  0  0
           │   │   │
           9  10  11

    Args:
        sids: codes of each item's semantic ID, and of what closes it, ``[num_items, D]``, integers. Several items may
            share one. A shorter one is padded with -1 at its end; then none may be the beginning of another, which an
            end token ensures.
        tokens: token id of each code, ``[codes]``, int64; codes are token ids if not given.
        num_closing: how many of the ``D`` are closing tokens.
        only_children_ride: whether every node that has no sibling rides with its parent: right where codes are written
            with several tokens, most of which leave no choice.
        num_prefix: how many tokens at the end of a prompt belong to the response: their log-probabilities count.

    Attributes:
        num_levels: ``L``, the number of codes of the longest semantic ID, ``D - num_closing``.
        max_depth: ``D``.
        num_calls: most target calls of plain beam search: L, and one more where something closes semantic IDs whose
            last codes are too many to be scored in advance.
        num_leaves: number of distinct semantic IDs.
        num_first: number of first codes.
        widest: most children of a node of each depth, D integers.
        sizing: how large results are made whose size depends on data.
        has_one_length: whether all of them have D codes.
        code: last code of each prefix, ``[M]``; 0 for the root.
        token: its token id, ``[M]``.
        token_spans: spans of the vocabulary that hold these, all but the root's.
        rider: the node that rides with a node, ``[M]``, the root where there is none; None: no node rides.
        num_riders: how many do, one below the other, ``[M]``; None: no node rides.
        longest_ride: the largest of these.
        parent: ``[M]``; the root is its own parent.
        num_children: ``[M]``.
        first_child: ``[M]``; the children of ``n`` are ``first_child[n] … first_child[n] + num_children[n] - 1``.
        depth_start: first node of each depth, and ``M``; ``L + 2`` integers.
        subtree_size: inner nodes in the subtree of ``n``, itself included, ``[M]``.
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

    def __init__(
        self,
        sids: Tensor,
        tokens: Tensor | None = None,
        num_closing: int = 0,
        only_children_ride: bool = False,
        num_prefix: int = 0,
    ) -> None:
        _check_sids(sids)
        sids = sids.long()
        self.sizing: Measured = MEASURED
        self.max_depth = sids.shape[1]
        self.num_levels = self.max_depth - num_closing
        self.num_calls = self.num_levels + (num_closing > 0)
        self.num_prefix = num_prefix
        self.items = _sorted_rows(sids)
        self._number_prefixes(sids[self.items])
        self.num_children = torch.bincount(self.parent[1:], minlength=self.num_nodes)
        self.first_child = 1 + self.num_children.cumsum(0) - self.num_children
        self.widest = [
            int(self.num_children[begin:end].max()) if end > begin else 0
            for begin, end in pairwise(self.depth_start[:-1])
        ]
        self.num_first = self.widest[0]
        self.num_leaves = int((self.num_children == 0).sum())
        self.has_one_length = self.num_leaves == self.depth_start[-1] - self.depth_start[-2]
        self._check_that_all_end_in_leaves(sids)
        self.subtree_size = self._count_inner_nodes()
        self.token = self.code if tokens is None else tokens[self.code]
        self.token_spans = vocabulary_spans(self.token[1:])
        self._note_riders(only_children_ride)

    def _number_prefixes(self, rows: Tensor) -> None:
        """Number the prefixes of sorted rows, one depth after the other, and note what each stands for.

        Args:
            rows: the semantic IDs in order, ``[num_items, L]``.
        """
        starts_prefix = torch.ones_like(rows, dtype=torch.bool)  # [num_items, L]: does this row start another prefix?
        starts_prefix[1:] = (rows[1:] != rows[:-1]).cumsum(1) > 0
        root = torch.zeros(1, dtype=torch.long)
        codes, parents, first_items, num_items = [root], [root], [root], [root + len(rows)]
        node = torch.zeros(len(rows), dtype=torch.long)  # of each row, at the depth so far
        self.depth_start = [0, 1]
        for level in range(self.max_depth):
            code, starts = rows[:, level], starts_prefix[:, level]
            exists = code != END
            first = starts.nonzero()[:, 0]  # first row of each prefix; also of one that has ended
            count = first.diff(append=torch.tensor([len(rows)]))[exists[first]]
            first = first[exists[first]]
            codes.append(code[first])
            parents.append(node[first])
            first_items.append(first)
            num_items.append(count)
            node = torch.where(exists, self.depth_start[-1] + (starts & exists).cumsum(0) - 1, node)
            self.depth_start.append(self.depth_start[-1] + len(first))
        self.code, self.parent = torch.cat(codes), torch.cat(parents)
        self.first_item, self.num_items = torch.cat(first_items), torch.cat(num_items)
        self._depth_bounds = torch.tensor(self.depth_start[1:])
        self._leaf_of_item = torch.empty_like(self.items)
        self._leaf_of_item[self.items] = node

    def _check_that_all_end_in_leaves(self, sids: Tensor) -> None:
        goes_on = self.num_children[self._leaf_of_item] > 0
        if goes_on.any():
            codes = sids[goes_on.nonzero()[0, 0]]
            raise ValueError(
                f"the semantic ID {codes[codes != END].tolist()} is the beginning of another one: end each with an end "
                "token"
            )

    def _count_inner_nodes(self) -> Tensor:
        """Return the number of inner nodes in each subtree, ``[M]``."""
        size = (self.num_children > 0).long()
        for begin, end in reversed(list(pairwise(self.depth_start[1:]))):
            size.index_add_(0, self.parent[begin:end], size[begin:end].clone())
        return size

    def _note_riders(self, only_children: bool) -> None:
        """Note which nodes ride with their parents: inner nodes that nobody has to choose."""
        self.rider: Tensor | None = None
        self.num_riders: Tensor | None = None
        self.longest_ride = 0
        rides = self.num_children > 0
        if only_children:
            rides &= self.num_children[self.parent] == 1
        else:
            rides[: self.depth_start[self.num_levels + 1]] = False  # all but inner closing nodes
        rides[ROOT] = False
        nodes = rides.nonzero()[:, 0]
        if not len(nodes):
            return
        self.rider = torch.zeros_like(self.parent)
        self.rider[self.parent[nodes]] = nodes
        self.num_riders = torch.zeros_like(self.parent)
        for begin, end in reversed(list(pairwise([0, *self.depth_start[1:]]))):
            rider = self.rider[begin:end]
            self.num_riders[begin:end] = torch.where(rider == ROOT, 0, 1 + self.num_riders[rider])
        self.longest_ride = int(self.num_riders.max())

    def for_draft(self, tokens: Tensor | None = None) -> "ItemTrie":
        """Return the same trie for a draft: with its tokens, and without what the target writes around the codes.

        Nodes have the same numbers; the last codes are the leaves, since a draft need not say how the target closes a
        semantic ID. The other arrays are shared.

        Args:
            tokens: token id of each code in the draft's vocabulary, ``[codes]``, int64; the target's if not given.
        """
        trie = copy.copy(self)
        trie.num_prefix = 0
        if tokens is not None:
            end = self.depth_start[self.num_levels + 1]
            trie.token = torch.zeros_like(self.token)
            trie.token[:end] = tokens.to(self.code.device)[self.code[:end]]
            trie.token_spans = vocabulary_spans(trie.token[1:end])
        if self.max_depth > self.num_levels:
            begin, end = self.depth_start[self.num_levels : self.num_levels + 2]
            trie.num_children = self.num_children.clone()
            trie.num_children[begin:end] = 0
            trie.widest = [*self.widest[: self.num_levels], *[0] * (self.max_depth - self.num_levels)]
            trie.rider = trie.num_riders = None
            trie.longest_ride = 0
        return trie

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

    def most_children(self, ahead: int = 0) -> int:
        """Return the most children that a node has which is at least ``ahead`` levels below the beams."""
        return max(self.widest[self.sizing.least_depth + ahead :], default=0)

    def most_in_list(self, num_nodes: int, ahead: int = 0) -> int:
        """Return the most children that so many different nodes have, all of them at least ``ahead`` levels below."""
        least_depth = self.sizing.least_depth + ahead
        at_root = self.widest[0] if least_depth == 0 else 0
        return min(at_root + num_nodes * max(self.widest[max(least_depth, 1) :], default=0), len(self.parent))

    def depth(self, nodes: Tensor) -> Tensor:
        """Return the depth of nodes, the same shape."""
        return torch.bucketize(nodes.contiguous(), self._depth_bounds, right=True)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Return which nodes are complete semantic IDs, the same shape, bool."""
        return self.num_children.take(nodes) == 0

    def leads_on(self, nodes: Tensor) -> Tensor:
        """Return which nodes have an inner node below them that does not ride with them, the same shape, bool."""
        size = self.subtree_size.take(nodes)
        return size > 1 if self.num_riders is None else size > 1 + self.num_riders.take(nodes)

    def path(self, nodes: Tensor, depth: int | None = None) -> Tensor:
        """Return each node and its ancestors below the root, nearest first, root-padded: ``[…] → […, D]``.

        Args:
            nodes: of any shape, int64.
            depth: that of the deepest node, if known to be less than D; the result is ``[…, depth]``.
        """
        path = [nodes]
        for _ in range((depth or self.max_depth) - 1):
            path.append(self.parent.take(path[-1]))
        return torch.stack(path, dim=-1)

    def code_path(self, leaves: Tensor) -> Tensor:
        """Return the nodes of the codes of semantic IDs, last to first, root-padded: ``[…] → […, L]``."""
        return self.path(leaves)[..., self.max_depth - self.num_levels :]

    def tokens(self, nodes: Tensor) -> Tensor:
        """Return the token ids of prefixes, first to last, padded with -1 at the end: ``[…] → […, D]``."""
        last = self.depth(nodes)[..., None] - 1
        steps_up = last - torch.arange(self.max_depth, device=nodes.device)  # from the node to its token of each depth
        return torch.where(steps_up < 0, END, self.token[self.path(nodes).gather(-1, steps_up.clamp(min=0))])

    def children(self, nodes: Tensor, valid: Tensor | None = None, limit: int | None = None) -> Spans:
        """Return the children of all nodes of a row in one list, in the order of their parents.

        Args:
            nodes: ``[B, K]``.
            valid: False where a node is padding, ``[B, K]``, bool; nowhere if not given.
            limit: the lists are cut after so many.
        """
        count = self.num_children.take(nodes)
        most = self.most_in_list(nodes.shape[1]) if limit is None else min(limit, len(self.parent))
        return concatenate_spans(
            self.first_child.take(nodes), count if valid is None else count * valid, most, self.sizing
        )

    def concatenated_items(self, leaves: Tensor, limit: int, item_mask: Tensor | None = None) -> Tensor:
        """Return the items of all leaves of a row in one list: all items of a shared semantic ID, side by side.

        Args:
            leaves: ``[B, W]``; root entries are padding.
            limit: the list is cut after so many.
            item_mask: True for the items that are wanted, ``[B, num_items]``, bool; all if not given.

        Returns:
            item indices, ``[B, T]``, padded with -1, with T the longest list's length, at most ``limit``.
        """
        spans = concatenate_spans(self.first_item[leaves], self.num_items[leaves] * (leaves != ROOT), len(self.items))
        items, wanted = self.items[spans.values], spans.mask
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


def concatenate_spans(first: Tensor, count: Tensor, most: int, sizing: Measured = MEASURED) -> Spans:
    """Concatenate the spans ``first … first + count - 1`` of each row's keys; see :class:`Spans`.

    Args:
        first: ``[B, K]``, int64.
        count: ``[B, K]``, int64; 0 where a key has no span.
        most: the lists are cut after so many values.
        sizing: how large results are made.
    """
    ends = count.cumsum(1)
    start, length = ends - count, ends[:, -1:]
    index = torch.arange(sizing.width(length, most), device=first.device).expand(first.shape[0], -1)
    source = torch.searchsorted(ends, index.contiguous(), right=True).clamp_(max=first.shape[1] - 1)  # [B, W]
    mask = index < length
    return Spans((index + (first - start).gather(1, source)) * mask, source, mask, start)


def _sorted_rows(sids: Tensor) -> Tensor:
    """Return the order that sorts semantic IDs by their codes, first to last; equal ones keep theirs."""
    order = torch.arange(len(sids))
    for level in reversed(range(sids.shape[1])):
        order = order[sids[order, level].argsort(stable=True)]
    return order


def _check_sids(sids: Tensor) -> None:
    if sids.ndim != 2 or 0 in sids.shape:
        raise ValueError(f"semantic IDs have the shape {tuple(sids.shape)}; expected [items, levels], none of them 0")
    ended = sids == END
    if ended.any():
        if ended[:, 0].any():
            raise ValueError(f"the semantic ID of item {int(ended[:, 0].nonzero()[0, 0])} is empty")
        holes = (ended[:, :-1] & ~ended[:, 1:]).any(1)
        if holes.any():
            raise ValueError(f"the semantic ID of item {int(holes.nonzero()[0, 0])} continues after -1, which ends it")
