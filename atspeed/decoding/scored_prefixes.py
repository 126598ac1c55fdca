"""What is known of the prefixes that have been scored."""

from typing import Self

import torch
from torch import Tensor

from atspeed.decoding.indexing import index_of
from atspeed.decoding.trie import ROOT, ItemTrie, Spans

UNUSED = -1  # node of a slot that holds nothing


class ScoredPrefixes:
    """Prefixes whose children's log-probabilities are known, for a batch of requests.

    A table of slots, and one list of log-probabilities that the slots point into. Here for one request that has scored
    the root (children 1 and 2), node 2 (children 5, 6 and 7), and has one slot of padding::

        nodes              0         2              -1
        first_child        1         3              6          where the children of a slot begin
        child_log_probs    -inf | -0.7 -0.8 | -1.2 -0.9 -1.3
        index              0      1    2      3    4    5

    Index 0 stands for every child whose log-probability is not known.

    Args:
        trie: the catalog.
        batch_size: number of requests, ``B``.

    Attributes:
        nodes: scored node of each slot, -1 where a slot is unused, ``[B, S]``, int64.
        allowed: nodes that a request may use, ``[B, M]``, bool; None: all.
    """

    def __init__(self, trie: ItemTrie, batch_size: int) -> None:
        device = trie.parent.device
        self.trie = trie
        self.allowed: Tensor | None = None
        self.nodes = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        self._first_child = self.nodes  # [B, S], int64
        self._child_log_probs = torch.full((batch_size, 1), -torch.inf, device=device)  # [B, E], float32
        self._unwritten: list[tuple[Tensor, Tensor]] = []  # what has been appended to them since they were last read
        self._latest: tuple[Tensor, Spans, Tensor] | None = None  # what was appended last, if all of it is valid

    @classmethod
    def from_child_log_probs(cls, trie: ItemTrie, nodes: Tensor, valid: Tensor, log_probs: Tensor) -> Self:
        """Make the table from what :meth:`child_log_probs` returned for the same nodes; shapes as there."""
        table = cls(trie, len(nodes))
        table._append(nodes, valid, trie.children(nodes, valid), log_probs)
        return table

    def child_log_probs(self, nodes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the children of nodes in one list, in the order of their parents.

        Args:
            nodes: ``[B, S]``, int64.
            valid: False where a node is padding, ``[B, S]``, bool.

        Returns:
            float32 ``[B, E]``, and a mask, bool: True where there is a child.
        """
        spans = self.trie.children(nodes, valid)
        return self.log_probs(spans.values), spans.mask

    def _append(self, nodes: Tensor, valid: Tensor | None, spans: Spans, log_probs: Tensor) -> None:
        """Append slots for ``nodes`` ``[B, T]`` and their children's log-probabilities ``[B, W]``."""
        self._latest = (nodes, spans, log_probs) if valid is None else None
        self._unwritten.append((spans.start, log_probs))
        slots = nodes if valid is None else torch.where(valid, nodes, UNUSED)
        self.nodes = torch.cat([self.nodes, slots], dim=1)

    def _write(self) -> None:
        """Bring the list of log-probabilities up to date, which plain beam search never reads."""
        for start, log_probs in self._unwritten:
            self._first_child = torch.cat([self._first_child, self._child_log_probs.shape[1] + start], dim=1)
            self._child_log_probs = torch.cat([self._child_log_probs, log_probs], dim=1)
        self._unwritten = []

    def children(self, nodes: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and their log-probabilities given the node.

        Args:
            nodes: ``[B, K]``, int64.
            ahead: how many levels below the beams the nodes are at least; padding does not count.

        Returns:
            children, ``[B, K, C]``, int64, root where there is none; and float32 log-probabilities of the same shape:
            minus infinity where there is no child, for a child that the request does not allow, and for all children
            of a node that has not been scored. C is the largest number of children.
        """
        self._write()
        count = self.trie.num_children.take(nodes)[..., None]
        offset = torch.arange(self.trie.sizing.width(count, self.trie.most_children(ahead)), device=nodes.device)
        exists = offset < count  # [B, K, C]
        slot, scored = index_of(nodes, self.nodes)
        index = (self._first_child.gather(1, slot)[..., None] + offset) * (exists & scored[..., None])
        children = (self.trie.first_child.take(nodes)[..., None] + offset) * exists
        return children, self._child_log_probs.gather(1, index.flatten(1)).view(index.shape)

    def candidates(
        self, nodes: Tensor, scores: Tensor, ahead: int = 0, most: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the children of nodes in one list, and their scores: their parent's plus their own log-probability.

        Args:
            nodes: ``[B, K]``, int64.
            scores: theirs, ``[B, K]``, float32.
            ahead: how many levels below the beams the nodes are at least; padding does not count.
            most: how many of the best are wanted; others may be left out.

        Returns:
            children, ``[B, W]``, int64, and scores, float32, minus infinity for what :meth:`children` says.
        """
        if self._latest is not None and nodes is self._latest[0]:  # beams, right after they were scored
            _, spans, log_probs = self._latest
            return spans.values, scores.gather(1, spans.source) + log_probs
        children, log_probs = self.children(nodes, ahead)
        return children.flatten(1), (scores[..., None] + log_probs).flatten(1)

    def log_probs(self, nodes: Tensor) -> Tensor:
        """Return the log-probability of each node given its parent: ``[B, K]``, float32; the root's is 0.

        Minus infinity where the parent has not been scored.
        """
        self._write()
        parents = self.trie.parent[nodes]
        slot, scored = index_of(parents, self.nodes)
        index = self._first_child.gather(1, slot) + nodes - self.trie.first_child[parents]
        return self._child_log_probs.gather(1, index * scored).masked_fill(nodes == ROOT, 0)

    def is_scored(self, nodes: Tensor) -> Tensor:
        """Return which nodes have been scored: ``[B, K]`` → bool of the same shape."""
        return index_of(nodes, self.nodes)[1]

    def count_leaves(self, nodes: Tensor, mask: Tensor, most: Tensor) -> Tensor:
        """Count the leaves below some nodes that each request allows, ``[B]``, int64; up to ``most``, ``[B]``.

        An allowed node has at least one below it, so the count descends only where there are fewer nodes than needed.

        Args:
            nodes: allowed nodes, none below another, ``[B, W]``, int64.
            mask: False where a node is padding, ``[B, W]``, bool.
            most: where the count ends, ``[B]``, int64.
        """
        num_leaves = count = torch.zeros_like(most)
        for _ in range(self.trie.max_depth):
            count = torch.maximum(count, num_leaves + mask.sum(1))
            num_leaves = num_leaves + (mask & self.trie.is_leaf(nodes)).sum(1)
            mask = mask & (count < most)[:, None]
            if not mask.any():
                break
            nodes, _, mask, _ = self.trie.children(nodes, mask)
            if self.allowed is not None:
                mask = mask & self.allowed.gather(1, nodes)
        return count.minimum(most)

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        self._write()
        self.nodes, self._first_child = self.nodes[rows], self._first_child[rows]
        self._child_log_probs = self._child_log_probs[rows]
