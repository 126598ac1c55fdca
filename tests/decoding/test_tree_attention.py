"""Attention split at the prompt is the attention of one softmax, and answers under it are those of generate."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from atspeed.benchmark import HFGenerate
from atspeed.decoding import ItemTrie, ModelDrafter, PrefixScorer, SpeculativeDecoder, tree_attention
from atspeed.decoding.execution import Captured
from atspeed.decoding.probe import check_tree_attention
from atspeed.decoding.tree_attention import TREE_ATTENTION, SharedPrompt
from tests.decoding.test_equality import DRAFTERS, assert_equals_generate, assert_same_answers, thorough
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

SPLIT = ("llama", "qwen3", "mistral", "gpt2")
_models: dict[tuple[str, int | None], PreTrainedModel] = {}


def split_model(family: str, window: int | None = None) -> PreTrainedModel:
    """A tiny model that splits its attention at the prompt; made once."""
    if (family, window) not in _models:
        model = deepcopy(tiny_model(family, 12, window=window))
        model.set_attn_implementation(TREE_ATTENTION)
        _models[family, window] = model
    return _models[family, window]


def tree_call(
    num_prompts: list[int], num_prompt: int, num_nodes: int, num_slots: int, heads: int, groups: int, width: int
) -> tuple[torch.Tensor, ...]:
    """Random queries, keys and values in preallocated slots, and the mask of a tree whose last node is padding."""
    generator = torch.Generator().manual_seed(0)
    size, end = len(num_prompts), num_prompt + num_slots
    query = torch.randn(size, num_nodes, heads, width, generator=generator).transpose(1, 2)
    key, value = (torch.randn(size, groups, end + 3, width, generator=generator)[:, :, :end] for _ in range(2))
    mask = torch.rand(size, num_nodes, end, generator=generator) < 0.3
    mask[:, :, :num_prompt] = (torch.arange(num_prompt) >= num_prompt - torch.tensor(num_prompts)[:, None])[:, None]
    mask[:, -1, num_prompt:] = False
    return query, key, value, mask


def one_softmax(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention by its definition in float64, ``[B, Q, H, D]``."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = query.double(), *(states.double().repeat_interleave(groups, 1) for states in (key, value))
    scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    return (scores.masked_fill(~mask[:, None], -torch.inf).softmax(3) @ value).transpose(1, 2)


def bias_of(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]


@settings(max_examples=30, deadline=None)
@given(
    num_prompts=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    padding=st.integers(0, 9),
    num_nodes=st.integers(1, 40),
    num_old=st.integers(0, 9),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_two_softmaxes_are_one(
    num_prompts: list[int],
    padding: int,
    num_nodes: int,
    num_old: int,
    heads: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    num_prompt = max(num_prompts) + padding
    *states, mask = tree_call(num_prompts, num_prompt, num_nodes, num_old + num_nodes, *heads, width=8)
    query, key, value = (tensor.to(dtype) for tensor in states)
    bias = bias_of(mask, dtype)
    found, _ = tree_attention.tree_attention(
        torch.nn.Module(), query, key, value, bias, shared_prompt=SharedPrompt(bias, num_prompt)
    )
    assert found.dtype == dtype
    expected = one_softmax(query, key, value, mask)
    tolerance = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", SPLIT)
@settings(thorough, max_examples=5)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from([1, 3, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    draft_family=st.sampled_from(SPLIT),
)
def test_strict_answers_equal_generate(
    family: str,
    seed: int,
    num_codes: list[int],
    lengths: list[int],
    num_beams: int,
    drafter: str,
    draft_family: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_sids(generator, 40, num_codes)
    prompts, mask = random_prompts(generator, lengths, 12)
    models = split_model(family), split_model(draft_family)
    assert_equals_generate(models[0], sids, prompts, mask, num_beams, DRAFTERS[drafter], models[1])


def test_captured_answers_equal_generate() -> None:
    """Slots are preallocated, and prompts padded to 16 tokens."""
    generator = torch.Generator().manual_seed(0)
    sids = random_sids(generator, 40, [3, 4, 5])
    prompts, mask = random_prompts(generator, [13, 5, 1], 12)
    target, trie = split_model("llama"), ItemTrie(sids)
    captured = Captured(num_beams=(5,), batch_sizes=(4,), prompt_lengths=(16,))
    decoder = SpeculativeDecoder(target, trie, ModelDrafter(6, 2), draft=split_model("qwen3"), execution=captured)
    assert_same_answers(trie, decoder(prompts, mask, 5), *HFGenerate(target, sids)(prompts, mask, 5))
    assert len(captured.captures) == 1


@pytest.mark.parametrize("family", SPLIT)
def test_trees_are_split_in_every_layer_and_prompts_are_not(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    split, sdpa = [], []
    attend = tree_attention.attend_prompt
    monkeypatch.setattr(tree_attention, "attend_prompt", lambda *given: split.append(given) or attend(*given))
    whole = tree_attention.sdpa_attention_forward
    monkeypatch.setattr(
        tree_attention, "sdpa_attention_forward", lambda *given, **how: sdpa.append(given) or whole(*given, **how)
    )
    generator = torch.Generator().manual_seed(0)
    scorer = PrefixScorer(
        split_model(family), ItemTrie(random_sids(generator, 40, [3, 4])), *random_prompts(generator, [5, 9], 12)
    )
    with torch.no_grad():
        scorer.score(torch.tensor([[1], [2]]))
        assert (len(split), len(sdpa)) == (0, 2)
        scorer.score(torch.tensor([[2], [1]]))
    assert (len(split), len(sdpa)) == (2, 2)


@pytest.mark.parametrize("family", SPLIT)
def test_the_probe_takes_it(family: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = deepcopy(split_model(family)).to(dtype)
        vars(model).pop("_atspeed_probed_tokens", None)
        check_tree_attention(model, prompt_tokens=24, num_levels=4)


@pytest.mark.parametrize(("family", "argument"), [("gpt_oss", "s_aux"), ("gemma2", "softcap")])
def test_sinks_and_caps_are_refused(family: str, argument: str) -> None:
    with pytest.raises(ValueError, match=f"attn_implementation 'atspeed_tree' knows no '{argument}'"):
        check_tree_attention(split_model(family), prompt_tokens=24, num_levels=4)


def test_a_window_shorter_than_the_request_is_left_to_sdpa(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(0)
    sids = random_sids(generator, 40, [3, 4, 5])
    prompts, mask = random_prompts(generator, [13, 30], 12)
    model = split_model("mistral", window=8)
    tree_attention._say_once.cache_clear()
    with caplog.at_level("INFO"):
        assert_equals_generate(model, sids, prompts, mask, 10, DRAFTERS["trie"], model)
    assert "MistralForCausalLM has a sliding window shorter than the request: its attention is sdpa" in caplog.text


def test_gradients_are_those_of_sdpa() -> None:
    gradients = []
    for model in (deepcopy(split_model("llama")), deepcopy(tiny_model("llama", 12))):
        generator = torch.Generator().manual_seed(0)
        trie = ItemTrie(random_sids(generator, 40, [3, 4]))
        scorer = PrefixScorer(model, trie, *random_prompts(generator, [5, 9], 12))
        for nodes in ([[1], [2]], [[2], [1]]):
            scorer.score(torch.tensor(nodes))
        scorer.children(torch.tensor([[1, 2]]).expand(2, -1))[1].clamp(min=-100).sum().backward()
        gradients.append(model.model.layers[0].self_attn.k_proj.weight.grad)
    assert gradients[1].norm() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("num_requests", [1, 3])
def test_rows_begin_at_the_first_token_of_each_request(num_requests: int) -> None:
    lengths = [7, 2, 5][:num_requests]
    _, key, _, mask = tree_call(lengths, 9, 4, 6, heads=4, groups=2, width=8)
    shared, prompt = SharedPrompt(bias_of(mask, torch.float32), 9), key[:, :, :9]
    assert torch.isfinite(shared.tree_bias * 1.4427).all(), "kernels scale by log2(e); nothing is seen by the last node"
    rows = tree_attention._as_rows(prompt)
    assert rows.data_ptr() == key.data_ptr()
    first = shared.first_rows(prompt.stride(0) // prompt.stride(2))
    assert shared.num_seen.tolist() == lengths
    assert shared.first_queries.tolist() == [4 * request for request in range(num_requests + 1)]
    for request, length in enumerate(lengths):
        seen = rows[int(first[request]) :][:length]  # [tokens, groups, width]
        assert seen.equal(prompt[request, :, 9 - length :].transpose(0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_on_cuda_take_what_they_are_given(dtype: torch.dtype) -> None:
    """Signatures, shapes, and that nothing is asked of the device: tensors without data, on which no kernel runs."""
    *states, mask = (tensor.to("meta") for tensor in tree_call([7, 2], 9, 5, 6, heads=4, groups=2, width=8))
    query, key, value = (tensor.to(dtype) for tensor in states)
    bias = bias_of(mask, dtype)
    shared = SharedPrompt(bias, 9)
    found, _ = tree_attention.tree_attention(torch.nn.Module(), query, key, value, bias, shared_prompt=shared)
    assert (found.shape, found.dtype) == ((2, 5, 4, 8), dtype)
    prompt, lse = tree_attention.attend_prompt(query, key[:, :, :9], value[:, :, :9], shared, None)
    assert (prompt.shape, lse.shape, lse.dtype) == (query.shape, query.shape[:3], torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("lengths", [[40], [70, 3, 33]])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_softmaxes_are_one_on_a_gpu(lengths: list[int], heads: tuple[int, int], dtype: torch.dtype) -> None:
    *states, mask = tree_call(lengths, 75, 37, 50, *heads, width=64)
    query, key, value = (tensor.to(dtype) for tensor in states)
    bias = bias_of(mask, dtype).cuda()
    found, _ = tree_attention.tree_attention(
        torch.nn.Module(), query.cuda(), key.cuda(), value.cuda(), bias, shared_prompt=SharedPrompt(bias, 75)
    )
    tolerance = 1e-5 if dtype == torch.float32 else 8 * torch.finfo(dtype).eps
    expected = one_softmax(query, key, value, mask)
    torch.testing.assert_close(found.cpu().double(), expected, atol=tolerance, rtol=0)
