"""Strict answers equal ``transformers.generate``, whatever the model, trie, drafter, width, batch and padding."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from atspeed.benchmark.reference import HFGenerate
from atspeed.decoding import Drafter, ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter

SCORE_TOLERANCE = 1e-4
TIE = 1e-5

LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "llama": LLAMA_LIKE,
    "mistral": {**LLAMA_LIKE, "sliding_window": 40},
    "qwen2": LLAMA_LIKE,
    "qwen3": {**LLAMA_LIKE, "head_dim": 8},
    "gemma2": {**LLAMA_LIKE, "head_dim": 8, "sliding_window": 40},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
}
_models: dict[tuple[str, int, int], PreTrainedModel] = {}


def tiny_model(family: str, vocab_size: int, seed: int = 0) -> PreTrainedModel:
    """A random model with peaked, irregular distributions."""
    key = (family, vocab_size, seed)
    if key not in _models:
        special = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
        config = AutoConfig.for_model(family, vocab_size=vocab_size, **special, **FAMILIES[family])
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            model.get_output_embeddings().weight.normal_(std=0.6)
        _models[key] = model
    return _models[key]


def random_sids(generator: torch.Generator, num_items: int, num_codes: list[int]) -> torch.Tensor:
    """Random semantic IDs with collisions and single-child chains; the levels share their tokens."""
    return torch.stack([torch.randint(3, 3 + codes, (num_items,), generator=generator) for codes in num_codes], dim=1)


def random_prompts(
    generator: torch.Generator, lengths: list[int], vocab_size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(lengths)
    mask = torch.arange(longest) >= longest - torch.tensor(lengths)[:, None]
    tokens = torch.randint(1, vocab_size, mask.shape, generator=generator)
    return tokens.masked_fill(~mask, 0), mask


def assert_equals_generate(
    target: PreTrainedModel,
    sids: torch.Tensor,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    num_beams: int,
    drafter: Drafter,
    draft: PreTrainedModel | None,
) -> None:
    trie = ItemTrie(sids)
    expected_tokens, expected_scores = HFGenerate(target, sids)(prompts, mask, num_beams)
    decoded = SpeculativeDecoder(target, trie, drafter, draft=draft)(prompts, mask, num_beams)
    width = min(num_beams, trie.num_leaves)
    assert decoded.leaves.shape == (len(prompts), width)
    assert (decoded.leaves >= trie.depth_start[-2]).all(), "every answer is a whole semantic ID"
    tokens = trie.token[trie.path(decoded.leaves).flip(-1)]
    torch.testing.assert_close(decoded.scores, expected_scores[:, :width], atol=SCORE_TOLERANCE, rtol=0)
    for row in range(len(prompts)):
        for place in range(width):
            if tokens[row, place].tolist() != expected_tokens[row, place].tolist():
                gaps = (decoded.scores[row] - decoded.scores[row, place]).abs()
                assert ((gaps < TIE).sum() > 1) or (place == width - 1), "order differs without a tie"
                neighbours = tokens[row, gaps < TIE].tolist()
                if place < width - 1:
                    assert expected_tokens[row, place].tolist() in neighbours


DRAFTERS = {
    "none": (NoDrafter(), False),
    "trie": (TrieDrafter(), False),
    "trie, tiny budget": (TrieDrafter(max_nodes=5), False),
    "draft": (ModelDrafter(draft_beams=4, gamma=3), True),
    "draft, wide": (ModelDrafter(draft_beams=50, gamma=1), True),
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    num_items=st.integers(1, 60),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from([1, 2, 3, 5, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    same_draft=st.booleans(),
)
def test_strict_answers_equal_generate(
    family: str,
    seed: int,
    num_codes: list[int],
    num_items: int,
    lengths: list[int],
    num_beams: int,
    drafter: str,
    same_draft: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vocab_size = 12
    sids = random_sids(generator, num_items, num_codes)
    prompts, mask = random_prompts(generator, lengths, vocab_size)
    policy, needs_draft = DRAFTERS[drafter]
    target = tiny_model(family, vocab_size)
    draft = (target if same_draft else tiny_model("llama", vocab_size, seed=1)) if needs_draft else None
    assert_equals_generate(target, sids, prompts, mask, num_beams, policy, draft)
