"""A prefix scorer of fixed shapes, which asks the device nothing."""

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from atspeed.decoding.beams import select_top
from atspeed.decoding.forward import Normalize
from atspeed.decoding.scored_prefixes import UNUSED
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie, Spans

LARGEST = (1 << 32) - 1
"""Above all nodes (:func:`select_top`): what the root becomes where padding is sorted to the end."""


class FixedScorer(PrefixScorer):
    """Knows scored prefixes by their number: where a growing table has to be searched, these are looked up.

    Two columns over all nodes of the catalog, for one request that has scored the root and node 2, with the children 5
    to 7, whose keys are in the first slot after the prompt's::

        node        0     1     2     3     4     5     6     7
        log_prob  -inf -0.7  -0.8  -inf  -inf  -1.2  -0.9  -1.3
        slot        .    -1     0    -1    -1    -1    -1    -1

    Node 0, the root, pads lists of nodes, and padding has no log-probability; its slot is never read. Each column takes
    4 bytes per node and request: 0.2 MB for 25,000 nodes, 24 MB for 3 million.

    Args:
        model: see :class:`PrefixScorer`.
        trie: the catalog, with sizes that are fixed; a later round gives it another one of the same arrays.
        prompts: see :class:`PrefixScorer`.
        prompt_mask: the same.
        normalize: the same.
        allowed: nodes that a request may use, ``[B, M]``, bool.
        cache: where keys and values are kept, empty.
    """

    allowed: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        trie: ItemTrie,
        prompts: Tensor,
        prompt_mask: Tensor,
        normalize: Normalize,
        allowed: Tensor,
        cache: Cache,
    ) -> None:
        super().__init__(model, trie, prompts, prompt_mask, normalize, allowed)
        self.cache = cache
        self._log_prob = torch.full(allowed.shape, -torch.inf, device=prompts.device)  # [B, M]
        self._slot = torch.full(allowed.shape, UNUSED, dtype=torch.int32, device=prompts.device)  # [B, M]
        self._num_leaves: Tensor | None = None  # below each node, [B, M], int64, once they are asked for

    def score_beams(self, nodes: Tensor) -> None:
        """Score the children of a search's beams, and of the root; see :meth:`PrefixScorer.score_beams`."""
        if self.only_beams and not self._has_prompt:
            self._make(self._prompt_call(nodes))
        else:
            self._score(nodes)

    def children(self, nodes: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and their log-probabilities; see :meth:`ScoredPrefixes.children`."""
        count = self.trie.num_children.take(nodes)[..., None]
        offset = torch.arange(self.trie.most_children(ahead), device=nodes.device)
        exists = offset < count  # [B, K, C]
        children = (self.trie.first_child.take(nodes)[..., None] + offset) * exists
        return children, self._log_prob.gather(1, children.flatten(1)).view(children.shape)

    def candidates(
        self, nodes: Tensor, scores: Tensor, ahead: int = 0, most: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the children of nodes in one list, and their scores; see :meth:`ScoredPrefixes.candidates`.

        Where the nodes may have far more children than are wanted, the best of each are selected first, so that the one
        selection among all of them is small.
        """
        padded, listed = nodes.shape[1] * self.trie.most_children(ahead), self.trie.most_in_list(nodes.shape[1], ahead)
        if listed < padded / 2:  # few of the nodes can have so many children
            spans = self.trie.children(nodes, scores > -torch.inf, limit=listed)
            return spans.values, scores.gather(1, spans.source) + self._log_prob.gather(1, spans.values)
        children, log_probs = self.children(nodes, ahead)
        scores = scores[..., None] + log_probs  # [B, K, C]
        if most is not None and nodes.shape[1] > 1 and children.shape[2] > 2 * most:
            best = select_top(children.flatten(0, 1), scores.flatten(0, 1), most)
            children, scores = (part.unflatten(0, nodes.shape) for part in best)
        return children.flatten(1), scores.flatten(1)

    def log_probs(self, nodes: Tensor) -> Tensor:
        """Return the log-probability of each node given its parent; see :meth:`ScoredPrefixes.log_probs`."""
        return self._log_prob.gather(1, nodes).masked_fill(nodes == ROOT, 0)

    def is_scored(self, nodes: Tensor) -> Tensor:
        """Return which nodes have been scored; see :meth:`ScoredPrefixes.is_scored`."""
        scored = self._slot.gather(1, nodes) != UNUSED
        return scored | (nodes == ROOT) if self._has_prompt else scored

    def count_leaves(self, nodes: Tensor, mask: Tensor, most: Tensor) -> Tensor:
        """Count the allowed leaves below nodes; see :meth:`ScoredPrefixes.count_leaves`."""
        if self._num_leaves is None:
            is_leaf = (self.allowed & (self.trie.num_children == 0)).long()
            self._num_leaves, parent = is_leaf, self.trie.parent[1:].expand(len(is_leaf), -1)
            for _ in range(self.trie.max_depth):  # the root, whose parent is itself, adds nothing
                self._num_leaves = is_leaf.scatter_add(1, parent, self._num_leaves[:, 1:])
        return (self._num_leaves.gather(1, nodes) * mask).sum(1).minimum(most)

    def _without_padding(self, nodes: Tensor, most: int) -> Tensor:
        """Put padding at the end and cut it off; see :meth:`PrefixScorer._without_padding`.

        Shallow nodes come first: were there more than a drafter says, its proposals would be cut, and not the beams.
        """
        return ((nodes - 1) & LARGEST).sort(1).values[:, :most].add(1) & LARGEST  # the root becomes the largest

    def _append(self, nodes: Tensor, valid: Tensor | None, spans: Spans, log_probs: Tensor) -> None:
        """Note scored nodes and their children's log-probabilities; see :meth:`ScoredPrefixes._append`."""
        self._log_prob.scatter_(1, spans.values, log_probs)
        slots = nodes
        if valid is not None:
            self._slot.scatter_(1, nodes.masked_fill(valid, ROOT), UNUSED)  # what does not see its complete prefix
            slots = nodes.where(valid, UNUSED)
        self.nodes = torch.cat([self.nodes, slots], dim=1)

    def _tree_mask(self, paths: Tensor, slots: Tensor) -> Tensor:
        """Return which slots are a node itself or its ancestors; see :meth:`PrefixScorer._tree_mask`.

        From here on the new nodes, the first of each path, count as scored.
        """
        begin = max(self.nodes.shape[1] - 1, 0)  # the root's slot has no key and value of its own
        end = begin + slots.shape[1]
        new = torch.arange(begin, end, dtype=torch.int32, device=slots.device)
        self._slot.scatter_(1, paths[..., 0], new.expand_as(slots))
        seen = self._slot.gather(1, paths.flatten(1)).long()
        seen = seen.masked_fill((seen == UNUSED) | (paths.flatten(1) == ROOT), end)  # marks a column that is cut off
        mask = torch.zeros(*slots.shape, end + 1, dtype=torch.bool, device=slots.device)
        return mask.scatter_(2, seen.view(paths.shape), True)[..., :end]

    def keep(self, rows: Tensor) -> None:
        """Refuse: with fixed shapes all requests stay to the end."""
        raise NotImplementedError("a FixedScorer keeps all requests")
