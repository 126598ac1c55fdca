"""Log-probabilities of trie nodes under a causal language model, each prefix scored once."""

from typing import Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.trie import ROOT, ItemTrie

Normalize = Literal["vocabulary", "allowed"]


class PrefixScorer:
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

    Attributes:
        nodes: scored node of each slot after the prompt, -1 where a slot is unused, ``[B, S]``.
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
    ) -> None:
        _check_window(model, prompts.shape[1] + trie.num_levels)
        self.model = model
        self.trie = trie
        self.prompts = prompts
        self.prompt_mask = prompt_mask
        self.normalize = normalize
        # Layers are made at first use, each as long as what it is given, also where the model has a sliding window.
        self.cache = DynamicCache()
        self.calls = torch.zeros_like(prompts[:, 0])
        self.nodes = torch.full_like(prompts[:, :0], -1)
        self._child_width = max(trie.max_children[1:], default=0)
        self._root_log_probs: Tensor | None = None  # [B, C of the root]
        self._child_log_probs = torch.zeros(  # [B, S, C]
            len(prompts), 0, self._child_width, dtype=torch.float32, device=prompts.device
        )

    def score(self, nodes: Tensor) -> None:
        """Score the children of nodes, and of the root, in at most one forward pass.

        Args:
            nodes: ``[B, T]``; root entries are padding. Leaves and nodes scored before are passed over. A node whose
                ancestors are neither scored nor in ``nodes`` is not scored (it would not see its whole prefix).
        """
        nodes = self._unscored(nodes)
        first = self._root_log_probs is None
        if not first and nodes.shape[1] == 0:
            return
        tokens, positions = self.trie.token[nodes], self._prompt_length() + self.trie.depth(nodes) - 1
        slots = torch.cat([self.nodes, torch.where(nodes == ROOT, -1, nodes)], dim=1)  # [B, S + T]
        tree_mask = (self.trie.path(nodes)[..., None] == slots[:, None, None]).any(2)  # [B, T, S + T]
        mask = torch.cat([self.prompt_mask[:, None].expand(-1, nodes.shape[1], -1), tree_mask], dim=2)
        if first:
            tokens = torch.cat([self.prompts, tokens], dim=1)
            positions = torch.cat([(self.prompt_mask.cumsum(1) - 1).clamp(min=0), positions], dim=1)
            mask = torch.cat([self._prompt_attention(slots.shape[1]), mask], dim=1)
        logits = self._forward(tokens, positions, mask, keep=nodes.shape[1] + first)
        if first:
            self._root_log_probs = self._children_log_probs(
                torch.full_like(self.prompts[:, :1], ROOT), logits[:, :1], self.trie.max_children[0]
            )[:, 0]
            logits = logits[:, 1:]
        log_probs = self._children_log_probs(nodes, logits, self._child_width)
        self._child_log_probs = torch.cat([self._child_log_probs, log_probs], dim=1)
        complete = tree_mask.sum(2) == self.trie.depth(nodes)  # sees itself and every ancestor
        self.nodes = torch.cat([self.nodes, torch.where(complete & (nodes != ROOT), nodes, -1)], dim=1)
        self.calls += (nodes != ROOT).any(1) | first

    def root_children(self) -> tuple[Tensor, Tensor]:
        """Return the root's children and their log-probabilities, ``[B, 1, C]`` each; after a :meth:`score` call."""
        if self._root_log_probs is None:
            raise RuntimeError("score() must be called before the root's children are known")
        log_probs = self._root_log_probs[:, None]
        children, _ = self.trie.children(torch.full_like(self.prompts[:, :1], ROOT), log_probs.shape[2])
        return children, log_probs

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return children and log-probabilities of scored nodes below the root.

        Args:
            nodes: ``[B, K]``.

        Returns:
            children ``[B, K, C]`` (root where there is none) and their float32 log-probabilities given the node,
            ``[B, K, C]``: minus infinity where there is no child and for a node that has not been scored.
        """
        children, mask = self.trie.children(nodes, self._child_width)
        if self.nodes.shape[1] == 0:
            return children, torch.full(children.shape, -torch.inf, device=nodes.device)
        slot_is_node = self.nodes[:, None] == nodes[..., None]  # [B, K, S]
        slot = slot_is_node.byte().argmax(2)[..., None].expand(-1, -1, self._child_width)
        mask = mask & slot_is_node.any(2)[..., None]
        return children, self._child_log_probs.gather(1, slot).masked_fill(~mask, -torch.inf)

    def path_log_probs(self, leaves: Tensor) -> Tensor:
        """Return the log-probabilities of the codes of semantic IDs, all of whose prefixes have been scored.

        Args:
            leaves: one leaf a request, ``[B]``.

        Returns:
            ``[B, L]``, float32.
        """
        path = self.trie.path(leaves).flip(1)  # [B, L], from the first code to the last
        _, first = self.root_children()
        log_probs = [first[:, 0].gather(1, path[:, :1] - 1)]  # the root's children are nodes 1, 2, …
        if self.trie.num_levels > 1:
            _, deeper = self.children(path[:, :-1])  # [B, L - 1, C]
            place = path[:, 1:] - self.trie.first_child[path[:, :-1]]
            log_probs.append(deeper.gather(2, place[..., None])[..., 0])
        return torch.cat(log_probs, dim=1)

    def is_scored(self, nodes: Tensor) -> Tensor:
        """Return which nodes below the root have been scored: ``[B, K]`` → bool of the same shape."""
        return (self.nodes[:, None] == nodes[..., None]).any(2)

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        self.prompts, self.prompt_mask = self.prompts[rows], self.prompt_mask[rows]
        self.nodes, self.calls = self.nodes[rows], self.calls[rows]
        self._child_log_probs = self._child_log_probs[rows]
        if self._root_log_probs is not None:
            self._root_log_probs = self._root_log_probs[rows]
            self.cache.batch_select_indices(rows)

    def _prompt_length(self) -> Tensor:
        return self.prompt_mask.sum(1, keepdim=True)  # [B, 1]

    def _unscored(self, nodes: Tensor) -> Tensor:
        """Return what is left to score, each node once, root-padded at the end; ``[B, T]`` → ``[B, T' ≤ T]``."""
        nodes = torch.where(self.is_scored(nodes) | (nodes >= self.trie.depth_start[-2]), ROOT, nodes).sort(1).values
        nodes[:, 1:] = torch.where(nodes[:, 1:] == nodes[:, :-1], ROOT, nodes[:, 1:])
        nodes = nodes.sort(1, descending=True).values
        return nodes[:, : int((nodes != ROOT).sum(1).max())] if nodes.shape[1] else nodes

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
        bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
        output = self.model(
            input_ids=tokens,
            position_ids=positions.clamp(min=0),
            attention_mask=bias[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return output.logits

    def _children_log_probs(self, nodes: Tensor, logits: Tensor, width: int) -> Tensor:
        """Return the log-probabilities of children of ``nodes`` ``[B, T]``, ``[B, T, width]``; logits ``[B, T, V]``."""
        logits = logits.float()
        children, mask = self.trie.children(nodes, width)
        child_logits = logits.gather(2, self.trie.token[children])
        if self.normalize == "allowed":
            normaliser = child_logits.masked_fill(~mask, -torch.inf).logsumexp(2, keepdim=True)
        else:
            normaliser = logits.logsumexp(2, keepdim=True)
        return (child_logits - normaliser).masked_fill(~mask, -torch.inf)


def _check_window(model: PreTrainedModel, length: int) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and length > window:
        raise ValueError(
            f"the model's sliding_window is {window}, but a prompt and a semantic ID take {length} tokens: tree "
            "attention needs the whole prompt in view; shorten the history (data.max_history)"
        )
