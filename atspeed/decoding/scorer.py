"""Log-probabilities of trie nodes under a causal language model, each prefix scored once."""

from typing import NamedTuple, Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.cost.cost_model import CallShape
from atspeed.decoding.forward import CallableModel, Normalize, WantedChildren, child_log_probs
from atspeed.decoding.indexing import index_of, mark_members
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
    """

    def __init__(self, trie: ItemTrie, batch_size: int) -> None:
        device = trie.token.device
        self.trie = trie
        self.nodes = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        self._first_child = self.nodes  # [B, S], int64
        self._child_log_probs = torch.full((batch_size, 1), -torch.inf, device=device)  # [B, E], float32
        self._latest_nodes: Tensor | None = None

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

    def _append(self, nodes: Tensor, valid: Tensor, spans: Spans, log_probs: Tensor) -> None:
        """Append slots for ``nodes`` ``[B, T]`` and their children's log-probabilities ``[B, W]``."""
        self._first_child = torch.cat([self._first_child, self._child_log_probs.shape[1] + spans.start], dim=1)
        self._child_log_probs = torch.cat([self._child_log_probs, log_probs], dim=1)
        self.nodes = torch.cat([self.nodes, torch.where(valid, nodes, UNUSED)], dim=1)

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and their log-probabilities given the node.

        Args:
            nodes: ``[B, K]``, int64.

        Returns:
            children, ``[B, K, C]``, int64, root where there is none; and float32 log-probabilities of the same shape:
            minus infinity where there is no child, for a child that the request does not allow, and for all children
            of a node that has not been scored. C is the largest number of children.
        """
        count = self.trie.num_children.take(nodes)[..., None]
        offset = torch.arange(int(count.max()) if count.numel() else 0, device=nodes.device)
        exists = offset < count  # [B, K, C]
        slot, scored = index_of(nodes, self.nodes)
        index = (self._first_child.gather(1, slot)[..., None] + offset) * (exists & scored[..., None])
        children = (self.trie.first_child.take(nodes)[..., None] + offset) * exists
        return children, self._child_log_probs.gather(1, index.flatten(1)).view(index.shape)

    def candidates(self, nodes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of nodes in one list, and their scores: their parent's plus their own log-probability.

        Args:
            nodes: ``[B, K]``, int64.
            scores: theirs, ``[B, K]``, float32.

        Returns:
            children, ``[B, W]``, int64, and scores, float32, minus infinity for what :meth:`children` says.
        """
        if nodes is self._latest_nodes:
            spans, log_probs = self._latest
            return spans.values, scores.gather(1, spans.source) + log_probs
        children, log_probs = self.children(nodes)
        return children.flatten(1), (scores[..., None] + log_probs).flatten(1)

    def log_probs(self, nodes: Tensor) -> Tensor:
        """Return the log-probability of each node given its parent: ``[B, K]``, float32; the root's is 0.

        Minus infinity where the parent has not been scored.
        """
        parents = self.trie.parent[nodes]
        slot, scored = index_of(parents, self.nodes)
        index = self._first_child.gather(1, slot) + nodes - self.trie.first_child[parents]
        return self._child_log_probs.gather(1, index * scored).masked_fill(nodes == ROOT, 0)

    def is_scored(self, nodes: Tensor) -> Tensor:
        """Return which nodes have been scored: ``[B, K]`` → bool of the same shape."""
        return index_of(nodes, self.nodes)[1]

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        self.nodes, self._first_child = self.nodes[rows], self._first_child[rows]
        self._child_log_probs = self._child_log_probs[rows]


class _Call(NamedTuple):
    """What goes into one forward pass.

    Attributes:
        tokens: ``[B, Q]``, int64.
        positions: ``[B, Q]``, int64.
        mask: True where a token sees a prompt token or a slot, ``[B, Q, P + S]``, bool.
        nodes: the nodes whose children are wanted, those of the last T tokens, ``[B, T]``, int64.
        valid: which of them are scored, ``[B, T]``, bool.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    nodes: Tensor
    valid: Tensor


class PrefixScorer(ScoredPrefixes):
    """Scores the children of prefixes, for a batch of prompts, under one model.

    A scored node keeps its slot of the key-value cache, whatever order nodes come in: the tree attention mask, not the
    index of a slot, says who sees it. So draft trees, verification, corrections and plain beam search are all
    :meth:`score` calls, and no prefix goes through the model twice. The work stays differentiable unless the caller
    turns gradients off, so that alignment packs a tree of sequences into one forward pass the same way.

    The mask of a second call that scores nodes 7 and 3, a child and a grandchild of node 1, after a first one that
    scored the prompt and nodes 2 and 1 (``x``: is seen; 7 is a child of 3)::

        slot           prompt    2  1  7  3
        node 7         x x x     .  x  x  x
        node 3         x x x     .  x  .  x
        position 7: prompt length + 2, position 3: prompt length + 1

    Args:
        model: a Hugging Face causal language model that takes a 4-D attention mask and ``position_ids``
            (:mod:`atspeed.decoding.probe` finds out).
        trie: the catalog; on the model's device.
        prompts: tokens, padded on the left, ``[B, P]``, int64.
        prompt_mask: True where a token is no padding, ``[B, P]``, bool.
        normalize: ``vocabulary``: log-softmax over all tokens, as ``transformers.generate`` ranks;
            ``allowed``: over a node's legal children.
        allowed: nodes that a request may use, ``[B, M]``, bool; all if not given.

    Attributes:
        nodes: scored node of each slot, -1 where a slot is unused, ``[B, S]``; the first slot is the root's, whose
            children follow the prompt's last token.
        calls: forward passes made for each request, ``[B]``, int64.
        shapes: the size of each forward pass of the batch.

    Raises:
        ValueError: if the model has a sliding attention window shorter than a prompt and a semantic ID.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        trie: ItemTrie,
        prompts: Tensor,
        prompt_mask: Tensor,
        normalize: Normalize = "vocabulary",
        allowed: Tensor | None = None,
    ) -> None:
        check_window(model, prompts.shape[1] + trie.num_levels)
        super().__init__(trie, len(prompts))
        self.model = CallableModel.of(model)
        self.prompts = prompts
        self.prompt_mask = prompt_mask
        self.normalize = normalize
        self.allowed = allowed
        # Layers are made at first use, each as long as what it is given, also where the model has a sliding window.
        self.cache = DynamicCache()
        self.calls = torch.zeros_like(prompts[:, 0])
        self.shapes: list[CallShape] = []
        self._prompt_length = prompt_mask.sum(1, keepdim=True)

    @property
    def _has_prompt(self) -> bool:
        """Whether the prompt has gone through the model."""
        return self.nodes.shape[1] > 0

    def score(self, nodes: Tensor, always: bool = False, distinct: bool = False) -> None:
        """Score the children of nodes, and of the root, in at most one forward pass.

        Args:
            nodes: ``[B, T]``, int64; root entries are padding. Leaves, nodes scored before and nodes that a request
                does not allow are skipped. A node whose ancestors are neither scored nor in ``nodes`` is not scored
                (it would not see its complete prefix).
            always: make the forward pass also if nothing is left to score: under a strategy that gathers a model's
                shards at each pass, all processes must make the same number of them.
            distinct: the nodes of a request are known to differ, and to be allowed inner nodes, as beams are. Unless
                one of them is scored or padding, they are taken as they are.
        """
        asked = nodes
        nodes = self._unscored(nodes, distinct)
        if self._has_prompt and nodes.shape[1] == 0:
            if not always:
                return
            nodes = torch.full_like(self.prompts[:, :1], ROOT)
        call = self._tree_call(nodes)
        if not self._has_prompt:
            call = self._after_prompt(call)
        spans = self.trie.children(call.nodes, call.valid)
        legal = spans.mask
        if self.allowed is not None:
            legal = legal & self.allowed.gather(1, spans.values)
        wanted = WantedChildren(spans.source, self.trie.token.take(spans.values), legal)
        log_probs = child_log_probs(
            self.model, self.cache, *call[:3], wanted, num_parents=call.nodes.shape[1], normalize=self.normalize
        )
        self._append(call.nodes, call.valid, spans, log_probs)
        self._latest_nodes = asked if call.nodes is asked else None
        self._latest = spans, log_probs
        self.calls += call.valid.any(1)
        batch_size, num_tokens = call.tokens.shape
        self.shapes.append(CallShape(num_tokens, batch_size, call.mask.shape[2] - num_tokens))

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        if self._has_prompt:
            self.cache.batch_select_indices(rows)
        super().keep(rows)
        self.prompts, self.prompt_mask = self.prompts[rows], self.prompt_mask[rows]
        self.calls, self._prompt_length = self.calls[rows], self._prompt_length[rows]
        if self.allowed is not None:
            self.allowed = self.allowed[rows]

    def _unscored(self, nodes: Tensor, distinct: bool) -> Tensor:
        """Return what is left to score, each node once, root-padded at the end; ``[B, T]`` → ``[B, T' ≤ T]``."""
        if nodes.shape[1] == 0:
            return nodes
        scored = self.is_scored(nodes)
        if distinct and self._has_prompt and not scored.any():
            return nodes
        useless = scored | self.trie.is_leaf(nodes)
        if self.allowed is not None:
            useless = useless | ~self.allowed.gather(1, nodes)
        nodes = nodes.masked_fill(useless, ROOT).sort(1).values
        nodes[:, 1:].masked_fill_(nodes[:, 1:] == nodes[:, :-1], ROOT)  # each node once
        nodes = nodes.sort(1, descending=True).values
        return nodes[:, : int((nodes != ROOT).sum(1).max())]

    def _tree_call(self, nodes: Tensor) -> _Call:
        """Return the inputs for new nodes ``[B, T]``, each of which sees the prompt, its ancestors and itself."""
        is_node, depth = nodes != ROOT, self.trie.depth(nodes)
        # the root's slot has no key and value of its own: its children follow the prompt's last token
        in_cache = torch.cat([self.nodes[:, 1:], torch.where(is_node, nodes, UNUSED)], dim=1)  # [B, S - 1 + T]
        tree_mask = mark_members(self.trie.path(nodes), in_cache)  # [B, T, S - 1 + T]
        prompt_mask = self.prompt_mask[:, None].expand(-1, nodes.shape[1], -1)  # [B, T, P]
        sees_its_prefix = tree_mask.sum(2, dtype=torch.int16) == depth  # itself and every ancestor
        return _Call(
            tokens=self.trie.token.take(nodes),
            positions=self._prompt_length + depth - 1,
            mask=torch.cat([prompt_mask, tree_mask], dim=2),
            nodes=nodes,
            valid=is_node & sees_its_prefix,
        )

    def _after_prompt(self, call: _Call) -> _Call:
        """Put the prompt, whose last token scores the root, before a call's nodes."""
        positions = (self.prompt_mask.cumsum(1) - 1).clamp(min=0)
        return _Call(
            tokens=torch.cat([self.prompts, call.tokens], dim=1),
            positions=torch.cat([positions, call.positions], dim=1),
            mask=torch.cat([self._prompt_attention(call.nodes.shape[1]), call.mask], dim=1),
            nodes=torch.nn.functional.pad(call.nodes, (1, 0), value=ROOT),
            valid=torch.nn.functional.pad(call.valid, (1, 0), value=True),
        )

    def _prompt_attention(self, num_nodes: int) -> Tensor:
        """Causal attention among prompt tokens, which see no node: ``[B, P, P + T]``, bool.

        Padding sees itself, so that no softmax is over nothing.
        """
        length = self.prompts.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.prompts.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=self.prompts.device)
        return torch.nn.functional.pad(causal & self.prompt_mask[:, None] | itself, (0, num_nodes))


def check_window(model: PreTrainedModel, length: int) -> None:
    """Raise ``ValueError`` if the model's config has a sliding window shorter than ``length`` tokens.

    In low precision a window that lacks a few tokens looks like rounding, so the probe alone might miss it.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and length > window:
        raise ValueError(
            f"the model's sliding_window is {window}, but a prompt and a semantic ID take {length} tokens: tree "
            "attention needs the whole prompt in view; shorten the history (data.max_history)"
        )
