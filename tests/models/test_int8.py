"""An int8 model multiplies what it says, stays close to its base, and says where it cannot be used."""

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from atspeed.catalog import CompactVocabulary
from atspeed.decoding import ItemTrie, SpeculativeDecoder, TrieDrafter
from atspeed.models import Int8, LoRA, ModelSource, NewModel, dtype_name, int8, is_packed, pack_linears
from atspeed.models.int8 import Int8Linear, has_int8_products
from tests.decoding.tiny import random_prompts, random_sids

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
BASES: dict[str, ModelSource] = {
    "llama": NewModel("llama", SIZES),
    "llama, tied": NewModel("llama", {**SIZES, "tie_word_embeddings": True}),
    "qwen2, biases": NewModel("qwen2", {**SIZES, "num_key_value_heads": 2}),
}
VOCABULARY = CompactVocabulary([f"<a_{code}>" for code in range(27)])
TOKENS = torch.randint(30, (3, 9), generator=torch.Generator().manual_seed(0))

needs_int8 = pytest.mark.skipif(not has_int8_products(), reason="this processor has no int8 products in oneDNN")


def rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of integers and their scales, in float64; other quotients than float32's would break ties elsewhere."""
    scale = rows.float().abs().amax(1, keepdim=True) / 127
    integers = torch.where(scale > 0, rows.float() / scale, 0).round().double()
    assert ((integers * scale - rows).abs() <= 0.5001 * scale).all()
    return integers, scale.double()


@needs_int8
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_products_are_those_of_rounded_integers(dtype: torch.dtype, bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    linear = nn.Linear(50, 33, bias=bias).to(dtype)
    linear.weight.normal_(generator=generator)
    linear.weight[3] = 0
    linear.weight[4] *= 1000  # outputs have scales of their own
    values = torch.randn(2, 5, 50, generator=generator).to(dtype)
    values[0, 0] = 0
    values[1, 1] *= 1000  # and so have tokens
    inputs, input_scale = rounded(values.flatten(0, 1))
    weights, weight_scale = rounded(linear.weight)
    expected = (inputs @ weights.T) * input_scale * weight_scale.T + (linear.bias.double() if bias else 0)
    products = Int8Linear(linear)(values)
    assert products.dtype == dtype
    assert products.shape == (2, 5, 33)
    precision = {torch.float32: 1e-5, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(products.flatten(0, 1).double(), expected, atol=1e-4, rtol=precision)
    alone = torch.stack([Int8Linear(linear)(row[None])[0] for row in values.flatten(0, 1)])
    assert alone.equal(products.flatten(0, 1)), "a token's products depend on the other tokens"


@needs_int8
@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_an_int8_model_is_close_to_its_base(tmp_path: Path, base: str) -> None:
    exact = BASES[base].build(VOCABULARY, tmp_path)
    model = Int8(BASES[base]).build(VOCABULARY, tmp_path)
    linears = {name for name, module in exact.named_modules() if type(module) is nn.Linear}
    assert {name for name, module in model.named_modules() if type(module) is Int8Linear} == linears - {"lm_head"}
    assert model.num_parameters() == exact.num_parameters()
    assert (dtype_name(model), dtype_name(exact)) == ("int8", "float32")
    assert model.dtype == model.get_output_embeddings().weight.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.equal(exact.model.rotary_emb.inv_freq)
    expected = exact(TOKENS).logits
    difference = model.eval().requires_grad_(False).to("cpu")(TOKENS).logits - expected
    assert difference.std() < 0.05 * expected.std()
    pack_linears(model)  # the output embeddings
    assert is_packed(model)
    assert (model(TOKENS).logits - expected).std() < 0.05 * expected.std()


@needs_int8
def test_an_int8_model_decodes(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    trie = ItemTrie(random_sids(generator, 200, [9, 9, 9]))
    prompts, mask = random_prompts(generator, [12, 5, 9, 3], len(VOCABULARY))
    exact, ours = (
        SpeculativeDecoder(source.build(VOCABULARY, tmp_path), trie, TrieDrafter())(prompts, mask, num_beams=5)
        for source in (BASES["llama"], Int8(BASES["llama"]))
    )
    torch.testing.assert_close(ours.scores, exact.scores, atol=0.02, rtol=0)


@needs_int8
def test_an_int8_model_is_neither_trained_nor_moved(tmp_path: Path) -> None:
    model = Int8(BASES["llama"]).build(VOCABULARY, tmp_path)
    with pytest.raises(RuntimeError, match="an Int8 model cannot be trained: train its base"):
        model(TOKENS)
    with pytest.raises(ValueError, match="an Int8 model runs on a CPU only: use int8.base itself"):
        model.to("meta")


def test_without_int8_products_the_model_is_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(int8, "has_int8_products", lambda: False)
    with caplog.at_level(logging.INFO, logger="atspeed"):
        model = Int8(BASES["llama"]).build(VOCABULARY, tmp_path)
    assert "weights are in bfloat16 instead of int8: this processor has no int8 products" in caplog.text
    expected = BASES["llama"].build(VOCABULARY, tmp_path).bfloat16()
    assert all(a.equal(b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_bases_that_cannot_be_quantised_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="int8.base is a LoRA, which is trained: name the model that the fine-tuning"):
        Int8(LoRA(BASES["llama"]))
    monkeypatch.setattr(int8, "has_int8_products", lambda: True)
    gpt2 = NewModel("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2})
    with pytest.raises(ValueError, match=r"int8.base is a 'gpt2' model, whose layers are no torch\.nn\.Linear"):
        Int8(gpt2).build(VOCABULARY, tmp_path)
    monkeypatch.setattr(int8, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="cannot be built in the shards of DeepSpeed ZeRO-3"):
        Int8(BASES["llama"]).build(VOCABULARY, tmp_path)


def test_the_fingerprint_is_not_that_of_the_base(tmp_path: Path) -> None:
    sources = [*BASES.values(), *(Int8(base) for base in BASES.values())]
    assert len({source.fingerprint(tmp_path) for source in sources}) == len(sources)
