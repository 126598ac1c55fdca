"""Log-probabilities of trie nodes under a causal language model, each prefix scored once."""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from atspeed.decoding.cost.cost_model import CallShape
from atspeed.decoding.forward import Normalize, WantedChildren, child_log_probs
from atspeed.decoding.indexing import mark_members
from atspeed.decoding.scored_prefixes import UNUSED, ScoredPrefixes
from atspeed.decoding.sliding_window import SlidingWindow
from atspeed.decoding.trie import ROOT, ItemTrie, Spans


class _Call(NamedTuple):
    """What goes into one forward pass.

    Attributes:
        tokens: ``[B, Q]``, int64.
        positions: ``[B, Q]``, int64.
        mask: True where a token sees a prompt token or a slot, ``[B, Q, P + S]``, bool.
        nodes: the nodes whose children are wanted, those of the last T tokens, ``[B, T]``, int64.
        valid: which of them are scored, ``[B, T]``, bool; None for all.
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    nodes: Tensor
    valid: Tensor | None


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
        prefix_scores: log-probability of the last ``trie.num_prefix`` tokens of each prompt, ``[B]``, float32; 0 until
            the prompt has gone through the model.
        shapes: the size of each forward pass of the batch.
        only_beams: whether nothing but the root and the beams of a search have been scored, and nothing rides with
            them, so that none of the next beams has.
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
        super().__init__(trie, len(prompts))
        self.model = model
        self.prompts = prompts
        self.prompt_mask = prompt_mask
        self.normalize = normalize
        self.allowed = allowed
        # Layers are made at first use, each as long as what it is given, also where the model has a sliding window.
        self.cache: Cache = DynamicCache()
        self.calls = torch.zeros_like(prompts[:, 0])
        self.prefix_scores = torch.zeros_like(prompts[:, 0], dtype=torch.float32)
        self.shapes: list[CallShape] = []
        self.only_beams = trie.rider is None
        self._prompt_length = prompt_mask.sum(1, keepdim=True)
        self._dtype = model.dtype
        self._window = SlidingWindow.of(model)

    @property
    def _has_prompt(self) -> bool:
        """Whether the prompt has gone through the model."""
        return self.nodes.shape[1] > 0

    def score(self, nodes: Tensor, always: bool = False, most: int | None = None) -> None:
        """Score the children of nodes, and of the root, in at most one forward pass.

        Args:
            nodes: ``[B, T]``, int64; root entries are padding. Leaves, nodes scored before and nodes that a request
                does not allow are skipped. A node whose ancestors are neither scored nor in ``nodes`` is not scored
                (it would not see its complete prefix).
            always: make the forward pass also if nothing is left to score: under a strategy that gathers a model's
                shards at each pass, all processes must make the same number of them.
            most: how many nodes of a request are left at most, not counting those that ride with others; T if not
                given.
        """
        self.only_beams = False
        self._score(nodes, always, most)

    def score_beams(self, nodes: Tensor) -> None:
        """Score the children of a search's beams, and of the root: as :meth:`score`, with fewer operations.

        As long as nothing but beams has been scored, those of the next level are distinct, allowed inner nodes that
        have not been scored, one level deeper; so nothing has to be looked up.

        Args:
            nodes: ``[B, K]``, int64; at first the root, ``[B, 1]``.
        """
        if not self._has_prompt and self.only_beams:
            self._make(self._prompt_call(nodes))
        elif self.only_beams and not (nodes == ROOT).any():
            self._make(self._beams_call(nodes))
        else:
            self._score(nodes)

    def _score(self, nodes: Tensor, always: bool = False, most: int | None = None) -> None:
        most = nodes.shape[1] if most is None else most
        most = min(most + (most + 1) * self.trie.longest_ride, len(self.trie.parent))
        nodes = self._unscored(self._with_riders(nodes), most)
        if self._has_prompt and nodes.shape[1] == 0:
            if not always:
                return
            nodes = torch.full_like(self.prompts[:, :1], ROOT)
        call = self._tree_call(nodes)
        self._make(call if self._has_prompt else self._after_prompt(call))

    def _make(self, call: _Call) -> None:
        """Make a call, and keep what it says about the children of its nodes."""
        spans = self.trie.children(call.nodes, call.valid)
        self._append(call.nodes, call.valid, spans, self._log_probs(call, spans))
        self.calls += 1 if call.valid is None else call.valid.any(1)
        batch_size, num_tokens = call.tokens.shape
        self.shapes.append(CallShape(num_tokens, batch_size, call.mask.shape[2] - num_tokens))

    def _log_probs(self, call: _Call, spans: Spans) -> Tensor:
        """Return the log-probabilities of the children ``spans`` of a call's nodes, ``[B, W]``, float32.

        All that asks the model; what searches without one overrides it.
        """
        legal = spans.mask
        if self.allowed is not None:
            legal = legal & self.allowed.gather(1, spans.values)
        wanted = WantedChildren(spans.source, self.trie.token.take(spans.values), legal)
        num_parents, num_prefix = call.nodes.shape[1], 0 if self._has_prompt else self.trie.num_prefix
        if num_prefix:
            num_parents, wanted = num_parents + num_prefix, self._with_prefix(wanted, num_prefix)
        how = self.normalize, self._dtype, self._window
        log_probs = child_log_probs(self.model, self.cache, *call[:3], wanted, num_parents, *how)
        if num_prefix:
            self.prefix_scores = log_probs[:, :num_prefix].sum(1)
        return log_probs[:, num_prefix:]

    def _with_prefix(self, wanted: WantedChildren, num_prefix: int) -> WantedChildren:
        """Put the last tokens of the prompts, each after the position before it, in front of what is wanted."""
        tokens = self.prompts[:, -num_prefix:]
        parent = torch.arange(num_prefix, device=tokens.device).expand(len(tokens), -1)
        prefix = WantedChildren(parent, tokens, torch.ones_like(tokens, dtype=torch.bool))
        after = wanted._replace(parent=wanted.parent + num_prefix)
        return WantedChildren(*(torch.cat(parts, dim=1) for parts in zip(prefix, after, strict=True)))

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        if self._has_prompt:
            self.cache.batch_select_indices(rows)
        if self._window is not None:
            self._window.keep(rows)
        super().keep(rows)
        self.prompts, self.prompt_mask = self.prompts[rows], self.prompt_mask[rows]
        self.calls, self._prompt_length = self.calls[rows], self._prompt_length[rows]
        self.prefix_scores = self.prefix_scores[rows]
        if self.allowed is not None:
            self.allowed = self.allowed[rows]

    def _with_riders(self, nodes: Tensor) -> Tensor:
        """Add what rides with nodes, and with the root: ``[B, T] → [B, T' ≥ T]``, root-padded."""
        if self.trie.rider is None:
            return nodes
        riders = [torch.nn.functional.pad(nodes, (1, 0), value=ROOT)]
        for _ in range(self.trie.longest_ride):
            riders.append(self.trie.rider.take(riders[-1]))
        return torch.cat(riders, dim=1)

    def _unscored(self, nodes: Tensor, most: int) -> Tensor:
        """Return what is left to score, each node once, root-padded at the end; ``[B, T]`` → ``[B, T' ≤ most]``."""
        if nodes.shape[1] == 0:
            return nodes
        useless = self.is_scored(nodes) | self.trie.is_leaf(nodes)
        if self.allowed is not None:
            useless = useless | ~self.allowed.gather(1, nodes)
        nodes = nodes.masked_fill(useless, ROOT).sort(1).values
        nodes[:, 1:].masked_fill_(nodes[:, 1:] == nodes[:, :-1], ROOT)  # each node once
        return self._without_padding(nodes, most)

    def _without_padding(self, nodes: Tensor, most: int) -> Tensor:
        """Return nodes with their padding at the end and cut off; ``[B, T]`` → ``[B, T' ≤ most]``."""
        nodes = nodes.sort(1, descending=True).values
        return nodes[:, : self.trie.sizing.width((nodes != ROOT).sum(1), most)]

    def _tree_call(self, nodes: Tensor) -> _Call:
        """Return the inputs for new nodes ``[B, T]``, each of which sees the prompt, its ancestors and itself."""
        is_node, depth = nodes != ROOT, self.trie.depth(nodes)
        tree_mask = self._tree_mask(self.trie.path(nodes), torch.where(is_node, nodes, UNUSED))
        sees_its_prefix = tree_mask.sum(2, dtype=torch.int16) == depth  # itself and every ancestor
        return _Call(
            tokens=self.trie.token.take(nodes),
            positions=self._prompt_length + depth - 1,
            mask=self._after_prompt_mask(tree_mask),
            nodes=nodes,
            valid=is_node & sees_its_prefix,
        )

    def _beams_call(self, nodes: Tensor) -> _Call:
        """Return what :meth:`_tree_call` does, for beams ``[B, K]`` one level below those of the last call."""
        depth = len(self.shapes)  # a call is a level
        return _Call(
            tokens=self.trie.token.take(nodes),
            positions=(self._prompt_length + (depth - 1)).expand(-1, nodes.shape[1]),
            mask=self._after_prompt_mask(self._tree_mask(self.trie.path(nodes, depth), nodes)),
            nodes=nodes,
            valid=None,
        )

    def _tree_mask(self, paths: Tensor, slots: Tensor) -> Tensor:
        """Return which slots but the prompt's are a node itself or its ancestors, ``[B, T, S - 1 + T]``, bool.

        Args:
            paths: new nodes and their ancestors, ``[B, T, L]``, int64.
            slots: what their slots will hold, ``[B, T]``, int64.
        """
        # the root's slot has no key and value of its own: its children follow the prompt's last token
        return mark_members(paths, torch.cat([self.nodes[:, 1:], slots], dim=1))

    def _after_prompt_mask(self, tree_mask: Tensor) -> Tensor:
        """Let nodes see the prompt, ``[B, T, S - 1 + T]`` → ``[B, T, P + S - 1 + T]``."""
        return torch.cat([self.prompt_mask[:, None].expand(-1, tree_mask.shape[1], -1), tree_mask], dim=2)

    def _prompt_call(self, root: Tensor) -> _Call:
        """Return the inputs for the prompt, whose last token scores the root, ``[B, 1]``.

        Attention is causal. Padding sees itself, so that no softmax is over nothing.
        """
        length, device = self.prompts.shape[1], self.prompts.device
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=device)
        return _Call(
            tokens=self.prompts,
            positions=(self.prompt_mask.cumsum(1) - 1).clamp(min=0),
            mask=causal & self.prompt_mask[:, None] | itself,
            nodes=root,
            valid=None,
        )

    def _after_prompt(self, call: _Call) -> _Call:
        """Put the prompt, which sees no node, before a call's nodes."""
        pad, (num_requests, num_nodes) = torch.nn.functional.pad, call.nodes.shape
        prompt = self._prompt_call(call.nodes.new_full((num_requests, 1), ROOT))
        return _Call(
            tokens=torch.cat([prompt.tokens, call.tokens], dim=1),
            positions=torch.cat([prompt.positions, call.positions], dim=1),
            mask=torch.cat([pad(prompt.mask, (0, num_nodes)), call.mask], dim=1),
            nodes=torch.cat([prompt.nodes, call.nodes], dim=1),
            valid=None if call.valid is None else pad(call.valid, (1, 0), value=True),
        )
