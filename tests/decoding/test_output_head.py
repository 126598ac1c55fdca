"""Logits in blocks: what they give is what all logits at once would, in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from atspeed.decoding import ItemTrie, PrefixScorer, output_head
from atspeed.decoding.forward import Normalize
from atspeed.decoding.output_head import token_log_probs, token_logits
from atspeed.decoding.probe import check_tree_attention
from atspeed.models import pack_linears
from tests.decoding.peak_memory import peak_bytes

WIDTH = 8
LLAMA_3_VOCABULARY = 128_256
MEGABYTE = 1_000_000


@given(data=st.data(), seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
@settings(deadline=None)
def test_blocks_of_any_size_give_what_all_logits_give(data: st.DataObject, seed: int, dtype: torch.dtype) -> None:
    draw = data.draw
    batch_size, num_positions, vocab_size, num_wanted = (draw(st.integers(1, most)) for most in (3, 9, 30, 12))
    scale, is_linear = draw(st.sampled_from([0.1, 1.0, 300.0])), draw(st.booleans())
    generator = torch.Generator().manual_seed(seed)
    head: nn.Module = nn.Linear(WIDTH, vocab_size, bias=draw(st.booleans())).to(dtype)
    for parameter in head.parameters():
        nn.init.normal_(parameter.data, std=scale, generator=generator)
    hidden = torch.randn(batch_size, num_positions, WIDTH, generator=generator).to(dtype)
    logits = head(hidden).detach().double()
    begin = draw(st.integers(0, vocab_size - 1))
    spans = [(begin, draw(st.integers(begin + 1, vocab_size)))] if draw(st.booleans()) else None
    low, high = spans[0] if spans else (0, vocab_size)
    parent = torch.randint(num_positions, (batch_size, num_wanted), generator=generator)
    token = torch.randint(low, high, (batch_size, num_wanted), generator=generator)
    row = torch.arange(batch_size)[:, None]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for name in ("MAX_LOGITS", "SQUARE", "ALIGNMENT", "MAX_BYTES", "MAX_LOGITS_OF_PART"):
            patch.setattr(output_head, name, draw(st.integers(1, 60)))
        arguments = hidden, head if is_linear else nn.Sequential(head), vocab_size, parent, token, spans
        log_probs, values = token_log_probs(*arguments), token_logits(*arguments)
    # a product of another shape may round another way: in proportion to the largest sum of absolute terms
    terms = sum(parameter.detach().double().abs().sum(-1) for parameter in head.parameters())
    size = hidden.double().abs().amax(2)[row, parent] * torch.as_tensor(terms).max() + 1
    error = torch.stack([values - logits[row, parent, token], log_probs - logits.log_softmax(2)[row, parent, token]])
    assert (error.abs() <= torch.finfo(dtype).eps * 4 * size).all()
    assert (log_probs <= 0).all()
    assert log_probs.dtype == values.dtype == torch.float32


def test_a_token_that_a_bias_forbids_is_impossible() -> None:
    head, hidden = nn.Linear(WIDTH, 6), torch.ones(1, 1, WIDTH)
    head.bias.data[:3] = -torch.inf  # the first block has nothing else
    token = torch.tensor([[1, 4]])
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_LOGITS", "SQUARE"):
            patch.setattr(output_head, name, 3)
        log_probs = token_log_probs(hidden, head, 6, torch.zeros_like(token), token)
    expected = head(hidden).log_softmax(2)[0, 0, [1, 4]]
    torch.testing.assert_close(log_probs[0], expected.detach())


def llama_3_vocabulary(dtype: torch.dtype) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = AutoConfig.for_model("llama", vocab_size=LLAMA_3_VOCABULARY, **sizes)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    check_tree_attention(model, 4, 2)
    return model


def memory_of_a_call(model: PreTrainedModel, normalize: Normalize, num_nodes: int) -> int:
    """Peak of a call for some nodes, with the buffers of a model so small that these hardly count."""
    sids = 100_000 + torch.stack([torch.arange(num_nodes), 1000 + torch.arange(num_nodes) % 256], dim=1)
    prompts = torch.ones(1, 4, dtype=torch.long)
    scored = PrefixScorer(model, ItemTrie(sids), prompts, prompts > 0, normalize)
    scored.score(prompts[:, :0])
    return peak_bytes(lambda: scored.score(torch.arange(1, num_nodes + 1)[None]))


@pytest.mark.parametrize("normalize", ["vocabulary", "allowed"])
@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        pytest.param(lambda model: model, torch.float32, id="float32"),
        pytest.param(lambda model: model, torch.bfloat16, id="bfloat16"),
        pytest.param(pack_linears, torch.float32, id="packed-float32"),
        pytest.param(pack_linears, torch.bfloat16, id="packed-bfloat16", marks=pytest.mark.nightly),
    ],
)
@torch.inference_mode()
def test_640_nodes_and_128256_tokens_take_less_than_64_mb(
    change: Callable[[PreTrainedModel], PreTrainedModel], dtype: torch.dtype, normalize: Normalize
) -> None:
    assert memory_of_a_call(change(llama_3_vocabulary(dtype)), normalize, 640) < 64 * MEGABYTE


@torch.inference_mode()
def test_the_most_logits_that_are_held_at_once_take_less_than_64_mb() -> None:
    """As many as a call without blocks may have."""
    assert memory_of_a_call(llama_3_vocabulary(torch.bfloat16), "vocabulary", 32) < 64 * MEGABYTE
