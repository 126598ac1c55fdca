"""A model with quantised weights computes with what they were rounded to, and strict search on it is generate's."""

import sys
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from torch import nn

from atspeed.benchmark.agreement import answers_of
from atspeed.benchmark.measurement import items_by_tokens
from atspeed.benchmark.near_ties import count_near_ties, observed_noise
from atspeed.benchmark.reference import HFGenerate
from atspeed.catalog import CompactVocabulary
from atspeed.data import RequestBatch
from atspeed.decoding import Drafter, ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.decoding.cost import ModelSize
from atspeed.decoding.probe import check_tree_attention
from atspeed.models import (
    Grown,
    Int8,
    LoRA,
    ModelSource,
    NewModel,
    WeightOnly,
    dtype_name,
    is_packed,
    pack_linears,
    weight_only,
)
from atspeed.models.packing import has_packed_products
from tests.decoding.tiny import random_prompts, random_sids

DType = Literal["int8", "float8_e4m3fn"]
DTYPES: tuple[DType, ...] = get_args(DType)
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
PEAKED = {**SIZES, "initializer_range": 0.1}
BASES: dict[str, ModelSource] = {
    "llama": NewModel("llama", PEAKED),
    "llama, tied": NewModel("llama", {**PEAKED, "tie_word_embeddings": True}),
    "qwen2, biases": NewModel("qwen2", {**PEAKED, "num_key_value_heads": 2}),
    "grown, with rows of zeros": Grown(NewModel("llama", PEAKED), hidden_size=128),
}
VOCABULARY = CompactVocabulary([f"<a_{code}>" for code in range(27)])
TOKENS = torch.randint(30, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_the_function_is_that_of_the_rounded_weights(tmp_path: Path, base: str, dtype: DType) -> None:
    exact = BASES[base].build(VOCABULARY, tmp_path)
    model = WeightOnly(BASES[base], dtype).build(VOCABULARY, tmp_path)
    assert (dtype_name(model), model.dtype, model.training) == (f"{dtype}_weights", torch.bfloat16, False)
    head = model.get_output_embeddings()
    assert type(head.weight) is nn.Parameter
    assert head.weight.dtype == torch.bfloat16
    for name, module in exact.named_modules():
        ours = model.get_submodule(name)
        if type(module) is nn.Linear and ours is not head:
            weight = module.weight.bfloat16().float()
            rounded = ours.weight.dequantize(torch.float32)
            largest = weight.abs().amax(1, keepdim=True)
            # half a step: of 127 steps, or of 3 bits of mantissa; tiny weights have fewer
            error = largest / 254 if dtype == "int8" else weight.abs() / 16 + largest / 448 / 1024
            assert ((rounded - weight).abs() <= 1.01 * error).all(), name
            module.weight.copy_(rounded)
    difference = model(TOKENS).logits.float() - exact(TOKENS).logits
    assert difference.std() < 0.02 * exact(TOKENS).logits.std()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_count_parameters_as_the_base_does_and_bytes_as_they_are_stored(tmp_path: Path, dtype: DType) -> None:
    exact, model = (
        source.build(VOCABULARY, tmp_path) for source in (BASES["llama"], WeightOnly(BASES["llama"], dtype))
    )
    assert model.num_parameters() == exact.num_parameters()
    size, base = ModelSize.of(model), ModelSize.of(exact)
    linears = 2 * (4 * 64 * 64 + 3 * 64 * 96)
    rows = 2 * (4 * 64 + 2 * 96 + 64)
    assert (size.weights, base.bytes) == (base.weights, 4 * base.weights)
    stored = linears + 2 * (base.weights - linears)
    assert stored + 4 * rows <= size.bytes <= stored + 5 * rows  # a float32 scale, and with int8 a zero point


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("drafter", [NoDrafter(), TrieDrafter()], ids=["plain", "trie"])
def test_strict_search_is_generates_but_for_near_ties(tmp_path: Path, dtype: DType, drafter: Drafter) -> None:
    generator, width = torch.Generator().manual_seed(2), 5
    model = WeightOnly(BASES["llama"], dtype).build(VOCABULARY, tmp_path)
    check_tree_attention(model, 12, 3)
    sids = random_sids(generator, 200, [9, 9, 9])
    trie, items_of = ItemTrie(sids), items_by_tokens(sids)
    prompts, mask = random_prompts(generator, [12, 5, 9, 3, 12, 7, 8, 2], len(VOCABULARY))
    reference = answers_of(*HFGenerate(model, sids)(prompts, mask, width))
    pack_linears(model)
    assert is_packed(model) == has_packed_products(torch.bfloat16)  # the output embeddings
    assert dtype_name(model) == f"{dtype}_weights"
    decoded = SpeculativeDecoder(model, trie, drafter)(prompts, mask, width)
    answers = answers_of(trie.tokens(decoded.leaves), decoded.scores)
    assert observed_noise(answers, reference) < 0.1
    batch = RequestBatch(torch.zeros(8), prompts, mask, prompts, mask, torch.zeros(8, 1), torch.zeros(8))
    explained = count_near_ties({"ours": answers}, reference, [batch], model, trie, items_of, width, 0.1)["ours"]
    assert explained == sum(ours.sids != theirs.sids for ours, theirs in zip(answers, reference, strict=True))
    assert all(sid in items_of for answer in answers for sid in answer.sids)
    assert all(len({*answer.sids}) == width for answer in answers)


def test_what_cannot_be_quantised_or_trained_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BASES["llama"]
    with pytest.raises(
        ValueError, match=r"weight_only\.base is a LoRA, which is trained: name the model that the fine-"
    ):
        WeightOnly(LoRA(base))
    with pytest.raises(ValueError, match=r"weight_only\.dtype is 'int4'; expected int8 or float8_e4m3fn"):
        WeightOnly(base, "int4")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a WeightOnly model cannot be trained: train its base"):
        WeightOnly(base).build(VOCABULARY, tmp_path)(TOKENS)
    gpt2 = NewModel("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2})
    with pytest.raises(ValueError, match=r"weight_only\.base is a 'gpt2' model, whose layers are no torch\.nn\.Linear"):
        WeightOnly(gpt2).build(VOCABULARY, tmp_path)
    for quantise in (Int8, WeightOnly):
        with pytest.raises(ValueError, match=r"base is a 'llama' model, whose layers are no torch\.nn\.Linear"):
            quantise(WeightOnly(base)).build(VOCABULARY, tmp_path)
    monkeypatch.setattr(weight_only, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="cannot be built in the shards of DeepSpeed ZeRO-3"):
        WeightOnly(base).build(VOCABULARY, tmp_path)


def test_without_torchao_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"WeightOnly needs torchao; install it with: pip install 'atspeed\[quantiza"):
        WeightOnly(BASES["llama"]).build(VOCABULARY, tmp_path)


def test_the_fingerprint_tells_base_and_dtype(tmp_path: Path) -> None:
    sources = [*BASES.values(), *(WeightOnly(base, dtype) for base in BASES.values() for dtype in DTYPES)]
    assert len({source.fingerprint(tmp_path) for source in sources}) == len(sources)
    assert WeightOnly(BASES["llama"]).origin(tmp_path) is None
