"""Log-probabilities of trie nodes under a causal language model, each prefix scored once."""

from typing import Literal, Self

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.trie import ROOT, ItemTrie, Spans

Normalize = Literal["vocabulary", "allowed"]


class ScoredPrefixes:
    """Prefixes whose children's log-probabilities are known, for a batch of requests.

    Args:
        trie: the catalog.
        batch_size: number of requests, ``B``.

    Attributes:
        nodes: scored node of each slot, -1 where a slot is unused, ``[B, S]``.
    """

    def __init__(self, trie: ItemTrie, batch_size: int) -> None:
        device = trie.token.device
        self.trie = trie
        self.nodes = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        # Log-probabilities of the children of all slots, [B, E]; the first one stands for all that are not known.
        self._edges = torch.full((batch_size, 1), -torch.inf, device=device)
        self._first_edge = self.nodes  # where the children of a slot begin, [B, S]

    @classmethod
    def from_edges(cls, trie: ItemTrie, nodes: Tensor, valid: Tensor, edges: Tensor) -> Self:
        """Make the table from what :meth:`edges` returned for the same nodes; shapes as there."""
        table = cls(trie, len(nodes))
        table._append(nodes, valid, trie.children(nodes, valid), edges)
        return table

    def edges(self, nodes: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the children of nodes in one list, in the order of their parents.

        Args:
            nodes: ``[B, S]``.
            valid: False where a node is padding, ``[B, S]``, bool.

        Returns:
            float32 ``[B, E]``, and a mask, bool: True where there is a child.
        """
        spans = self.trie.children(nodes, valid)
        return self.log_probs(spans.values), spans.mask

    def _append(self, nodes: Tensor, valid: Tensor, spans: Spans, edges: Tensor) -> None:
        """Append slots for ``nodes`` ``[B, T]`` and their children's log-probabilities ``[B, W]``."""
        self._first_edge = torch.cat([self._first_edge, self._edges.shape[1] + spans.start], dim=1)
        self._edges = torch.cat([self._edges, edges], dim=1)
        self.nodes = torch.cat([self.nodes, torch.where(valid, nodes, -1)], dim=1)

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of nodes and their log-probabilities given the node.

        Args:
            nodes: ``[B, K]``.

        Returns:
            children, ``[B, K, C]``, int64, root where there is none; and float32 log-probabilities of the same shape:
            minus infinity where there is no child, for a child that the request does not allow, and for all children
            of a node that has not been scored. C is the largest number of children.
        """
        count = self.trie.num_children[nodes][..., None]
        place = torch.arange(int(count.max()) if count.numel() else 0, device=nodes.device)
        exists = place < count  # [B, K, C]
        slot, scored = self._slot(nodes)
        edge = (self._first_edge.gather(1, slot)[..., None] + place) * (exists & scored[..., None])
        children = (self.trie.first_child[nodes][..., None] + place) * exists
        return children, self._edges.gather(1, edge.flatten(1)).view(edge.shape)

    def log_probs(self, nodes: Tensor) -> Tensor:
        """Return the log-probability of each node given its parent: ``[B, K]``, float32; the root's is 0.

        Minus infinity where the parent has not been scored.
        """
        parents = self.trie.parent[nodes]
        slot, scored = self._slot(parents)
        place = self._first_edge.gather(1, slot) + nodes - self.trie.first_child[parents]
        return self._edges.gather(1, place * scored).masked_fill(nodes == ROOT, 0)

    def is_scored(self, nodes: Tensor) -> Tensor:
        """Return which nodes have been scored: ``[B, K]`` → bool of the same shape."""
        return (self.nodes[:, None] == nodes[..., None]).any(2)

    def _slot(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots of nodes and whether they have one, ``[B, K]`` each."""
        slot_is_node = self.nodes[:, None] == nodes[..., None]  # [B, K, S]
        scored, slot = slot_is_node.max(2)
        return slot, scored


class PrefixScorer(ScoredPrefixes):
    """Scores the children of prefixes, for a batch of prompts, under one model.

    A scored node keeps its slot of the key-value cache, whatever order nodes come in: the tree attention mask, not the
    place in the cache, says who sees it. So draft trees, verification, corrections and plain beam search are all
    :meth:`score` calls, and no prefix goes through the model twice. The work stays differentiable unless the caller
    turns gradients off, so that alignment packs a tree of sequences into one forward pass the same way.

    Args:
        model: any Hugging Face causal language model that takes a 4-D attention mask and ``position_ids``.
        trie: the catalog; on the model's device.
        prompts: tokens, padded on the left, ``[B, P]``, int64.
        prompt_mask: True where a token is no padding, ``[B, P]``, bool.
        normalize: ``vocabulary``: log-softmax over all tokens, as ``transformers.generate`` ranks;
            ``allowed``: over a node's legal children.
        allowed: nodes that a request may use, ``[B, M]``, bool; all if not given.

    Attributes:
        nodes: scored node of each slot, -1 where a slot is unused, ``[B, S]``; the first slot is the root's.
        calls: forward passes made for each request, ``[B]``.

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
        _check_window(model, prompts.shape[1] + trie.num_levels)
        super().__init__(trie, len(prompts))
        self.model = model
        self.prompts = prompts
        self.prompt_mask = prompt_mask
        self.normalize = normalize
        self.allowed = allowed
        # Layers are made at first use, each as long as what it is given, also where the model has a sliding window.
        self.cache = DynamicCache()
        self.calls = torch.zeros_like(prompts[:, 0])
        self._prompt_length = prompt_mask.sum(1, keepdim=True)

    def score(self, nodes: Tensor, always: bool = False) -> None:
        """Score the children of nodes, and of the root, in at most one forward pass.

        Args:
            nodes: ``[B, T]``; root entries are padding. Leaves, nodes scored before and nodes that a request does not
                allow are passed over. A node whose ancestors are neither scored nor in ``nodes`` is not scored (it
                would not see its whole prefix).
            always: make the forward pass also if nothing is left to score: under a strategy that gathers a model's
                shards at each pass, all processes must make the same number of them.
        """
        nodes = self._unscored(nodes)
        first = self.nodes.shape[1] == 0
        if not first and nodes.shape[1] == 0:
            if not always:
                return
            nodes = torch.full_like(self.prompts[:, :1], ROOT)
        is_node, depth = nodes != ROOT, self.trie.depth(nodes)
        tokens, positions = self.trie.token[nodes], self._prompt_length + depth - 1
        in_cache = torch.cat([self.nodes[:, 1:], torch.where(is_node, nodes, -1)], dim=1)  # [B, S - 1 + T]
        tree_mask = (self.trie.path(nodes)[..., None] == in_cache[:, None, None]).any(2)  # [B, T, S - 1 + T]
        is_node &= tree_mask.sum(2) == depth  # it sees itself and every ancestor
        mask = torch.cat([self.prompt_mask[:, None].expand(-1, nodes.shape[1], -1), tree_mask], dim=2)
        if first:
            tokens = torch.cat([self.prompts, tokens], dim=1)
            positions = torch.cat([(self.prompt_mask.cumsum(1) - 1).clamp(min=0), positions], dim=1)
            mask = torch.cat([self._prompt_attention(in_cache.shape[1]), mask], dim=1)
            nodes = torch.nn.functional.pad(nodes, (1, 0), value=ROOT)
            is_node = torch.nn.functional.pad(is_node, (1, 0), value=True)
        logits = self._forward(tokens, positions, mask, keep=nodes.shape[1])
        self._keep_children(nodes, is_node, logits)
        self.calls += is_node.any(1)

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[rows])
        if self.nodes.shape[1]:
            self.cache.batch_select_indices(rows)

    def _unscored(self, nodes: Tensor) -> Tensor:
        """Return what is left to score, each node once, root-padded at the end; ``[B, T]`` → ``[B, T' ≤ T]``."""
        if nodes.shape[1] == 0:
            return nodes
        useless = self.is_scored(nodes) | self.trie.is_leaf(nodes)
        if self.allowed is not None:
            useless = useless | ~self.allowed.gather(1, nodes)
        nodes = nodes.masked_fill(useless, ROOT).sort(1).values
        nodes[:, 1:].masked_fill_(nodes[:, 1:] == nodes[:, :-1], ROOT)  # each node once
        nodes = nodes.sort(1, descending=True).values
        return nodes[:, : int((nodes != ROOT).sum(1).max())]

    def _prompt_attention(self, num_slots: int) -> Tensor:
        """Causal attention among prompt tokens, which see no slot: ``[B, P, P + num_slots]``.

        Padding sees itself, so that no softmax is over nothing.
        """
        length = self.prompts.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.prompts.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=self.prompts.device)
        return torch.nn.functional.pad(causal & self.prompt_mask[:, None] | itself, (0, num_slots))

    def _forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Return the last ``keep`` positions' logits of one model call; ``mask`` ``[B, Q, P + S]``, True: looks at."""
        dtype = self.model.dtype
        bias = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=bias[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits

    def _keep_children(self, nodes: Tensor, valid: Tensor, logits: Tensor) -> None:
        """Append slots for ``nodes`` ``[B, T]`` and their children's log-probabilities; logits ``[B, T, V]``."""
        logits = logits.float()
        spans = self.trie.children(nodes, valid)
        legal = spans.mask
        if self.allowed is not None:
            legal = legal & self.allowed.gather(1, spans.values)
        if self.normalize == "vocabulary":
            logits = logits.log_softmax(2)
        edges = logits.flatten(1).gather(1, spans.source * logits.shape[2] + self.trie.token[spans.values])  # [B, W]
        if self.normalize == "allowed":
            normaliser = _logsumexp_by(spans.source, edges.masked_fill(~legal, -torch.inf), nodes.shape[1])
            edges = (edges - normaliser.gather(1, spans.source)).clamp(max=0)  # rounding may lift a certain child above
        self._append(nodes, valid, spans, edges.masked_fill(~legal, -torch.inf))


def _logsumexp_by(group: Tensor, values: Tensor, num_groups: int) -> Tensor:
    """Return the log of the summed exponentials of each group's values, ``[B, W]`` each → ``[B, num_groups]``."""
    empty = torch.zeros(len(values), num_groups, device=values.device)
    largest = empty.scatter_reduce(1, group, values.detach(), "amax", include_self=False)
    largest = torch.where(largest == -torch.inf, 0, largest)
    total = empty.scatter_add(1, group, (values - largest.gather(1, group)).exp())
    return total.clamp(min=torch.finfo(total.dtype).tiny).log() + largest


def _check_window(model: PreTrainedModel, length: int) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and length > window:
        raise ValueError(
            f"the model's sliding_window is {window}, but a prompt and a semantic ID take {length} tokens: tree "
            "attention needs the whole prompt in view; shorten the history (data.max_history)"
        )
