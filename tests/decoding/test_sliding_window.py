"""Sliding windows are those of transformers, whatever the order of the slots."""

import pytest
import torch
from transformers import AutoConfig
from transformers.masking_utils import sliding_window_causal_mask_function

from atspeed.decoding import ROOT, ItemTrie, PrefixScorer
from atspeed.decoding.sliding_window import SlidingWindow
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

MIXED = {"full_attention", "sliding_attention"}
QWEN = {"num_hidden_layers": 2, "sliding_window": 8}


@pytest.mark.parametrize(
    ("family", "values", "expected"),
    [
        ("llama", {}, None),
        ("llama", {"sliding_window": 8, "use_sliding_window": False}, None),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": 8}, (8, set())),
        ("phi3", {"sliding_window": 8}, (8, set())),
        ("mixtral", {"sliding_window": 8}, (8, set())),
        ("gemma2", {"sliding_window": 8}, (8, MIXED)),
        ("gemma2", {"num_hidden_layers": 2, "sliding_window": 8, "layer_types": ["full_attention"] * 2}, None),
        ("qwen2", QWEN, None),
        ("qwen2", {**QWEN, "use_sliding_window": True, "max_window_layers": 2}, None),
        ("qwen2", {**QWEN, "use_sliding_window": True, "max_window_layers": 1}, (8, MIXED)),
        ("qwen2", {**QWEN, "use_sliding_window": True, "max_window_layers": 0}, (8, set())),
        ("qwen2_moe", QWEN, None),  # a window of 0
        ("qwen3_moe", {**QWEN, "use_sliding_window": False}, None),
        ("qwen3_moe", {**QWEN, "use_sliding_window": True}, (8, set())),
    ],
)
def test_a_window_is_what_the_config_makes_active(
    family: str, values: dict, expected: tuple[int, set[str]] | None
) -> None:
    stand_in = type("Model", (), {"config": AutoConfig.for_model(family, **values)})
    window = SlidingWindow.of(stand_in)
    assert (window and (window.size, set(window.layer_types))) == expected


@pytest.mark.parametrize("num_slots", [7, 8, 9, 10, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_limited_mask_is_that_of_transformers(num_slots: int, dtype: torch.dtype) -> None:
    """A prompt of 4 tokens, and a call whose tokens come in another order than their positions."""
    generator = torch.Generator().manual_seed(num_slots)
    after = torch.stack([4 + torch.randperm(num_slots - 4, generator=generator) for _ in range(3)])
    positions = torch.cat([torch.arange(4).expand(3, -1), after], dim=1)
    causal = positions[:, None] <= positions[..., None]
    sees = sliding_window_causal_mask_function(8)(0, 0, positions[..., None], positions[:, None])
    smallest = torch.finfo(dtype).min
    bias, expected = (torch.where(mask, 0.0, smallest).to(dtype)[:, None] for mask in (causal, sees))
    everywhere, mixed = SlidingWindow(8), SlidingWindow(8, MIXED)
    for start, end in ((0, 4), (4, num_slots)):
        one, new = bias[:, :, start:end, :end], positions[:, start:end]
        wanted = expected[:, :, start:end, :end]
        assert everywhere.limit(one, new).equal(wanted)
        masks = mixed.limit(one, new)
        if end > 8:
            assert masks["sliding_attention"].equal(wanted)
            assert masks["full_attention"].equal(one)
        else:
            assert masks is one, "nothing is too far back"


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
@torch.no_grad()
def test_no_softmax_is_over_nothing(family: str) -> None:
    """Neither that of padding, nor that of what lacks its ancestors, nor under a window that ends within the tree."""
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 60, [4, 5, 6]))
    prompts, mask = random_prompts(generator, [9, 1, 4], 12)
    model, masks = tiny_model(family, 12, window=2), []
    hook = model.register_forward_pre_hook(lambda *call: masks.append(call[2]["attention_mask"]), with_kwargs=True)
    scorer = PrefixScorer(model, trie, prompts, mask)
    scorer.score(torch.tensor([[1, ROOT, ROOT], [1, 2, 3], [ROOT, ROOT, ROOT]]))
    scorer.score(trie.path(trie.leaves(torch.arange(3)))[:, 1:2])
    hook.remove()
    for found in masks:
        for bias in found.values() if isinstance(found, dict) else [found]:
            assert (bias == 0).any(3).all()
    assert len(masks) == 2
