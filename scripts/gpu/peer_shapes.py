"""The shapes of peers: random catalogs and models of their sizes, made on the machine.

Nobody publishes both, so they are partly assumed:

- NVIDIA recsys-examples, ``sid-gr-inference`` (README at commit f3da5b5): Qwen3-1.7B with its own vocabulary, 3 tokens,
  beam 256, no reuse of prefixes. There is no catalog: beams may be any three tokens but the special ones. Here 1.5
  million semantic IDs, of 3 × 8,192 codes, where the first call's choice is nearly as wide, and of 3 × 256.
- OneRec-1.7B: 3 × 8,192 codes beside the 151,669 tokens of Qwen3. Here 1.5 million semantic IDs, drawn uniformly.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3Config

from atspeed.decoding import ItemTrie
from scripts.gpu.measuring import random_model

LEVELS = 3
DRAFT_LAYERS = 2
SHRUNK = 2.0**-10
"""What the layers behind the draft's are multiplied by, where they write to the residual stream."""
SPREAD = 8.0
"""What the embeddings are multiplied by, so that logits differ as much as those of a trained model."""


@dataclass(frozen=True)
class Peer:
    """A shape.

    Attributes:
        name: whose.
        vocabulary: tokens of the model.
        codes: of each of the three levels; the last tokens of the vocabulary.
        items: semantic IDs, all different.
        cases: prompt tokens, batch size and beam width K; more than one method only for those in ``published``.
        published: what the peer publishes for a case, or None.
    """

    name: str
    vocabulary: int
    codes: int
    items: int
    cases: tuple[tuple[int, int, int], ...]
    published: dict[tuple[int, int, int], str | None]


NVIDIA_PUBLISHED: dict[tuple[int, int, int], str | None] = {
    (1000, 1, 256): "17.6 ms (H100)",
    (1000, 4, 256): "47.7 ms (H100)",
    (1000, 8, 256): "93.2 ms (H100)",
    (5000, 1, 256): "42.3 ms (H100)",
}
ONEREC_PUBLISHED = {(2465, 1, 50): "15.1 requests/s (RTX 5090)", (2465, 1, 512): None, (2465, 1, 1000): None}
ONEREC_WIDTHS = (1, 2, 5, 10, 20, 50, 100, 256, 512, 1000)
PEERS = (
    Peer("NVIDIA, 3 × 8,192 codes", 151_936, 8192, 1_500_000, tuple(NVIDIA_PUBLISHED), NVIDIA_PUBLISHED),
    Peer("NVIDIA, 3 × 256 codes", 151_936, 256, 1_500_000, tuple(NVIDIA_PUBLISHED), NVIDIA_PUBLISHED),
    Peer("OneRec", 176_245, 8192, 1_500_000, tuple((2465, 1, width) for width in ONEREC_WIDTHS), ONEREC_PUBLISHED),
)
TINY_PUBLISHED: dict[tuple[int, int, int], str | None] = {(24, 2, 5): "1 ms (nowhere)"}
TINY_PEERS = (
    Peer("wide", 400, 100, 3000, ((24, 2, 5), (24, 1, 1), (24, 1, 60)), TINY_PUBLISHED),
    Peer("narrow", 100, 6, 60, ((24, 2, 5),), TINY_PUBLISHED),
)


def qwen3(vocabulary: int, tiny: bool) -> Qwen3Config:
    """Return the configuration of Qwen3-1.7B, or a tiny one, with another vocabulary."""
    hidden, layers, heads, head_size = (64, 3, 2, 32) if tiny else (2048, 28, 16, 128)
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=head_size,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )


def random_catalog(peer: Peer) -> ItemTrie:
    """Return a trie over semantic IDs drawn without replacement, uniformly."""
    generator = torch.Generator().manual_seed(0)
    most = peer.codes**LEVELS
    if most > 100 * peer.items:  # too many for a permutation, so many that hardly any is drawn twice
        drawn = torch.randint(most, (2 * peer.items,), generator=generator).unique()
        numbers = drawn[torch.randperm(len(drawn), generator=generator)[: peer.items]]
    else:
        numbers = torch.randperm(most, generator=generator)[: peer.items]
    digits = torch.stack([numbers // peer.codes**level % peer.codes for level in reversed(range(LEVELS))], dim=1)
    first = peer.vocabulary - LEVELS * peer.codes
    return ItemTrie(first + peer.codes * torch.arange(LEVELS) + digits)


@torch.no_grad()
def target_and_draft(peer: Peer, device: torch.device, tiny: bool) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a target, and as its draft its first two layers, with the same embeddings.

    The target's other layers add next to nothing, so the draft is almost always right: its times are the best that a
    draft of this size can give, as plain search's are the worst.
    """
    target = random_model(qwen3(peer.vocabulary, tiny), device)
    target.model.embed_tokens.weight.mul_(SPREAD)
    for layer in target.model.layers[DRAFT_LAYERS:]:
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight.mul_(SHRUNK)
    config = copy.deepcopy(target.config)
    config.num_hidden_layers = DRAFT_LAYERS
    config.layer_types = config.layer_types[:DRAFT_LAYERS]
    with torch.device("meta"):
        draft = AutoModelForCausalLM.from_config(config, dtype=target.dtype).eval()
    for name, module in target.model.named_children():
        setattr(draft.model, name, module if name != "layers" else nn.ModuleList(module[:DRAFT_LAYERS]))
    draft.lm_head = target.lm_head
    return target, draft
