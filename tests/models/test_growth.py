"""A grown model computes what its base does: logits, strict answers, in memory and from disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from atspeed.catalog import CompactVocabulary
from atspeed.decoding import ItemTrie, SpeculativeDecoder, TrieDrafter
from atspeed.models import Checkpoint, Grown, LoRA, ModelSource, NewModel, export, growth
from tests.decoding.tiny import random_prompts, random_sids

VOCABULARY = CompactVocabulary([f"<a_{code}>" for code in range(27)])
TOKENS = torch.randint(30, (3, 9), generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
NORM = {"rms_norm_eps": 0.02}  # large, so that a wrong one shows
BIASED = {"attention_bias": True, "mlp_bias": True}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 4, **BIASED}),
    "llama, grouped, tied": ("llama", {"num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen2, grouped": ("qwen2", {"num_key_value_heads": 2}),
    "qwen2, windows": (
        "qwen2",
        {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
    "qwen3, tied": ("qwen3", {"num_key_value_heads": 4, "head_dim": 12, "tie_word_embeddings": True}),
    "qwen3, grouped": ("qwen3", {"num_key_value_heads": 2, "head_dim": 12, "attention_bias": True}),
}
SHAPES: dict[str, dict[str, int]] = {
    "nothing": {},
    "channels": {"hidden_size": 56},
    "neurons": {"intermediate_size": 41},
    "layers": {"num_hidden_layers": 5},
    "query heads": {"num_attention_heads": 8},
    "key heads": {"num_attention_heads": 8, "num_key_value_heads": 8},
    "repeated key heads": {"num_key_value_heads": 4},
    "all": {
        "hidden_size": 72,
        "intermediate_size": 100,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
    },
}


class Irregular(ModelSource):
    """A model in which every weight matters and none is what a new model has: norms and biases are random too."""

    def __init__(self, base: str) -> None:
        model_type, config = BASES[base]
        self.new = NewModel(model_type, {**SIZES, **NORM, **config})

    @torch.no_grad()
    def build(self, vocabulary: CompactVocabulary, run_dir: Path) -> PreTrainedModel:
        model = self.new.build(vocabulary, run_dir)
        generator = torch.Generator().manual_seed(1)
        for name, weight in model.named_parameters():
            weight.normal_(std=0.3, generator=generator)
            if "norm" in name:
                weight.add_(1)
        return model

    def fingerprint(self, run_dir: Path) -> str:
        return self.new.fingerprint(run_dir)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_the_function_is_kept_in_memory_and_on_disk(tmp_path: Path, base: str, shape: str) -> None:
    source = Irregular(base)
    small = source.build(VOCABULARY, tmp_path)
    large = Grown(source, **SHAPES[shape], seed=3).build(VOCABULARY, tmp_path)
    expected = small(TOKENS).logits.log_softmax(2)
    assert expected.std() > 0.5, "the scores are to differ"
    for name, size in SHAPES[shape].items():
        assert getattr(large.config, name) == size
    torch.testing.assert_close(large(TOKENS).logits.log_softmax(2), expected, atol=1e-4, rtol=0)
    export(large, VOCABULARY, tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    for loaded in (plain, Checkpoint(tmp_path / "model").build(VOCABULARY, tmp_path)):
        torch.testing.assert_close(loaded(TOKENS).logits.log_softmax(2), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("base", [name for name in BASES if "windows" not in name])
def test_strict_answers_are_equal(tmp_path: Path, base: str) -> None:
    generator = torch.Generator().manual_seed(2)
    trie = ItemTrie(random_sids(generator, 200, [9, 9, 9]))
    prompts, mask = random_prompts(generator, [12, 5, 9, 3], len(VOCABULARY))
    source = Irregular(base)
    expected, ours = (
        SpeculativeDecoder(model.build(VOCABULARY, tmp_path), trie, TrieDrafter())(prompts, mask, num_beams=20)
        for model in (source, Grown(source, **SHAPES["all"]))
    )
    assert ours.leaves.equal(expected.leaves)
    torch.testing.assert_close(ours.scores, expected.scores, atol=1e-4, rtol=0)


@torch.no_grad()
def test_weights_that_the_function_does_not_depend_on_are_random(tmp_path: Path) -> None:
    base = Irregular("qwen3, grouped")
    first, again, other = (Grown(base, **SHAPES["all"], seed=seed).build(VOCABULARY, tmp_path) for seed in (0, 0, 1))
    for (name, weight), same, different in zip(
        first.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert weight.equal(same), name
        random = not any(part in name for part in ("embed_tokens", "o_proj", "down_proj", "norm", "bias"))
        assert weight.equal(different) != random, name
        if random:
            assert (weight == 0).sum() == 0, name


@torch.no_grad()
def test_bfloat16_weights_are_rounded_once_and_stay_close(tmp_path: Path) -> None:
    base = Irregular("llama, grouped, tied")
    exact, rounded = (
        Grown(base, **SHAPES["all"], dtype=dtype).build(VOCABULARY, tmp_path) for dtype in ("float32", "bfloat16")
    )
    embeddings, last = (rounded.model.embed_tokens.weight[:, :32], rounded.model.norm.weight[:32])
    assert embeddings.equal(exact.model.embed_tokens.weight[:, :32].bfloat16())
    assert last.equal(exact.model.norm.weight[:32].bfloat16())
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    assert rounded.model.rotary_emb.inv_freq.equal(exact.model.rotary_emb.inv_freq)
    difference = rounded(TOKENS).logits.float() - exact(TOKENS).logits
    assert difference.std() < 0.05 * exact(TOKENS).logits.std()


class Allocated(TorchDispatchMode):
    """Adds up the bytes of all storages that operators make."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, torch.UntypedStorage] = {}  # kept, so that no address is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.device.type == "cpu":
            self.storages[output.untyped_storage().data_ptr()] = output.untyped_storage()
        return output

    @property
    def num_bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())


def test_the_large_model_is_made_once_in_its_dtype(tmp_path: Path) -> None:
    small = Irregular("llama").build(VOCABULARY, tmp_path)
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 32, "num_key_value_heads": 32}
    with Allocated() as allocated:
        model = growth.grow(small, shape, "bfloat16", seed=0)
    size = 2 * model.num_parameters()
    assert size <= allocated.num_bytes < 1.2 * size


def refused(base: ModelSource, tmp_path: Path, message: str, **shape: int) -> None:
    with pytest.raises(ValueError, match=message):
        Grown(base, **shape).build(VOCABULARY, tmp_path)


def test_shapes_that_cannot_be_grown_are_refused(tmp_path: Path) -> None:
    llama = Irregular("llama, grouped, tied")
    refused(llama, tmp_path, r"grown\.hidden_size is 16, but the base has 32.*choose 32 or more", hidden_size=16)
    refused(llama, tmp_path, r"grown\.num_hidden_layers is 1, but the base has 2", num_hidden_layers=1)
    refused(llama, tmp_path, r"hidden_size is 33.*num_attention_heads 4, as LlamaConfig.*choose 36 or", hidden_size=33)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 3}
    qwen = Irregular("qwen3, grouped")
    refused(qwen, tmp_path, r"num_attention_heads is 4, which is not .* num_key_value_heads 3; choose 6 or", **heads)
    for base in ("qwen2, grouped", "qwen3, grouped"):  # heads are independent of the channels there
        Grown(Irregular(base), hidden_size=33).build(VOCABULARY, tmp_path)(TOKENS)


def test_the_way_out_of_too_few_key_heads_works(tmp_path: Path) -> None:
    base = NewModel("qwen3", {**SIZES, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8})
    message = (
        r"num_attention_heads is 6: with num_key_value_heads 3 that is 2 per key head; the base has 3, so its 2 key "
        r"heads would need 4\. Choose a num_attention_heads of 9 or a larger multiple of 3"
    )
    refused(base, tmp_path, message, num_key_value_heads=3)
    Grown(base, num_attention_heads=9, num_key_value_heads=3).build(VOCABULARY, tmp_path)


def test_other_models_are_refused(tmp_path: Path) -> None:
    gpt2 = NewModel("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2})
    refused(gpt2, tmp_path, r"grown\.base is a 'gpt2' model; only llama, qwen2, qwen3 can be grown", hidden_size=64)
    adapted = LoRA(Irregular("llama"))
    refused(
        adapted,
        tmp_path,
        r"a weight '.*base_layer.weight' that a 'llama' model does not have.*exported",
        hidden_size=64,
    )


def test_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "is_deepspeed_zero3_enabled", lambda: True)
    refused(Irregular("llama"), tmp_path, "cannot be built in the shards of DeepSpeed ZeRO-3")


def test_the_fingerprint_follows_base_and_settings(tmp_path: Path) -> None:
    first, second = Irregular("llama"), Irregular("qwen3, tied")
    settings: list[dict[str, Any]] = [{}, *({name: 64} for name in SHAPES["all"]), {"dtype": "bfloat16"}, {"seed": 1}]
    sources = [Grown(base, **values) for base in (first, second) for values in settings]
    assert len({source.fingerprint(tmp_path) for source in sources}) == len(sources)
    assert json.loads(Grown(first).fingerprint(tmp_path))
