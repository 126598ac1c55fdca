"""A target that prefers at random, so that the search can be replayed on a catalog that has no model yet."""

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.decoding.trie import Spans

SMALLEST = {"hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}


class SimulatedTarget(PrefixScorer):
    """Gives each child of a node the score ``log(share) + strength · log(u)``, with ``u`` uniform in 0 … 1.

    The share is the node's expected part of its siblings' probability, the second term what a request happens to
    prefer: with 0 all requests agree, and the larger it is, the less the shares matter.

    Args:
        trie: the catalog.
        log_shares: of each node, 0 or less, ``[M]``, float32.
        strength: how far requests differ.
        num_requests: how many requests, ``B``.
        seed: of the random numbers.
    """

    def __init__(self, trie: ItemTrie, log_shares: Tensor, strength: float, num_requests: int, seed: int = 0) -> None:
        never_called = AutoModelForCausalLM.from_config(
            AutoConfig.for_model("llama", vocab_size=2, bos_token_id=None, eos_token_id=None, **SMALLEST)
        )
        prompts = torch.zeros(num_requests, 1, dtype=torch.long)
        super().__init__(never_called, trie, prompts, torch.ones_like(prompts, dtype=torch.bool))
        self._log_shares = log_shares
        self._strength = strength
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def new_tokens(self) -> Tensor:
        """Nodes that have been scored for each request, the prompt not counted, ``[B]``, int64."""
        return (self.nodes > 0).sum(1)

    def _log_probs(self, call: object, spans: Spans) -> Tensor:
        preferences = torch.rand(spans.values.shape, generator=self._generator).log()  # [B, W]
        scores = self._log_shares[spans.values] + self._strength * preferences
        return scores.masked_fill(~spans.mask, -torch.inf)
