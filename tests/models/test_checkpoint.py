"""A team's own checkpoint loads as ``transformers`` loads it, or says what it needs."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from atspeed.catalog import CompactVocabulary
from atspeed.catalog.tokenizer_vocabulary import TokenizerVocabulary
from atspeed.models import Checkpoint, Int8, LoRA, NewModel, export
from tests.decoding.tiny import FAMILIES, LLAMA_LIKE
from tests.models.checkpoints import CODES, NUM_WORDS, TOKENS, TOKENS_WITH_CODES, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def rows_of(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings: Any = model.get_input_embeddings(), model.get_output_embeddings()
    return embeddings[0].weight, embeddings[1].weight


@pytest.mark.parametrize("family", [*FAMILIES, "phi3", "olmo2", "gemma3_text"])
@torch.no_grad()
def test_any_family_loads_with_the_logits_of_transformers(tmp_path: Path, family: str) -> None:
    saved = save_checkpoint(tmp_path / "model", family, rows=64, **FAMILIES.get(family, {}))
    vocabulary = TokenizerVocabulary(tmp_path / "model")
    model = Checkpoint(tmp_path / "model").build(vocabulary, tmp_path)
    assert type(model) is type(saved)
    assert model(TOKENS).logits.equal(saved(TOKENS).logits), "64 rows for 40 tokens stay as they are"
    export(model, vocabulary, tmp_path / "export")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    assert again(TOKENS).logits.equal(saved(TOKENS).logits)


def test_bfloat16_shards_load_in_either_dtype(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, dtype="bfloat16", max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    vocabulary = TokenizerVocabulary(tmp_path)
    half, full = (Checkpoint(tmp_path, dtype=dtype).build(vocabulary, tmp_path) for dtype in ("bfloat16", "float32"))
    for name, weight in saved.named_parameters():
        assert half.get_parameter(name).dtype == torch.bfloat16
        assert half.get_parameter(name).equal(weight)
        assert full.get_parameter(name).equal(weight.float())
    assert half.model.rotary_emb.inv_freq.equal(full.model.rotary_emb.inv_freq)
    export(half, vocabulary, tmp_path / "export")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    assert again.dtype == torch.bfloat16
    assert all(again.get_parameter(name).equal(weight) for name, weight in saved.named_parameters())


def test_lora_trains_in_float32_on_a_base_in_bfloat16(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, dtype="bfloat16")
    base = Checkpoint(tmp_path, dtype="bfloat16")
    model = LoRA(base, base_dtype="bfloat16").build(TokenizerVocabulary(tmp_path), tmp_path)
    for name, weight in model.named_parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16), name


def test_int8_takes_a_base_in_bfloat16(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, dtype="bfloat16")
    ours, expected = (
        Int8(Checkpoint(tmp_path, dtype=dtype)).build(TokenizerVocabulary(tmp_path), tmp_path)
        for dtype in ("bfloat16", "float32")
    )
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS).logits, expected(TOKENS).logits, atol=0.05, rtol=0)


@pytest.mark.parametrize("rows", [40, 44, 64])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["mean", "random"])
@torch.no_grad()
def test_new_tokens_get_embeddings(tmp_path: Path, kind: Any, tied: bool, rows: int) -> None:
    saved = save_checkpoint(tmp_path / "model", rows=rows, tie_word_embeddings=tied)
    vocabulary = TokenizerVocabulary(tmp_path / "model", CODES)
    assert vocabulary.code_tokens([CODES[0], CODES[-1]]) == [NUM_WORDS, 49]
    state = torch.random.get_rng_state()
    model = Checkpoint(tmp_path / "model", new_tokens=kind).build(vocabulary, tmp_path)
    assert torch.random.get_rng_state().equal(state)
    assert (rows_of(model)[0] is rows_of(model)[1]) == tied
    for ours, theirs in zip(rows_of(model), rows_of(saved), strict=True):
        assert len(ours) == max(rows, 50)
        known, new = theirs[:NUM_WORDS], ours[NUM_WORDS:]
        assert ours[:NUM_WORDS].equal(known)
        if kind == "mean":
            torch.testing.assert_close(new, known.mean(0).expand_as(new), atol=1e-3, rtol=0)
        else:
            assert 0.015 < new.std() < 0.025
    assert model.config.vocab_size == max(rows, 50)
    again, other = (
        Checkpoint(tmp_path / "model", new_tokens="random", seed=seed).build(vocabulary, tmp_path) for seed in (0, 1)
    )
    assert rows_of(again)[0].equal(rows_of(model)[0]) == (kind == "random")
    assert not rows_of(again)[0].equal(rows_of(other)[0])
    export(model, vocabulary, tmp_path / "export")
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "export"),
        Checkpoint(tmp_path / "export").build(vocabulary, tmp_path),
        Checkpoint(tmp_path / "export").build(TokenizerVocabulary(tmp_path / "export"), tmp_path),
    ):
        assert loaded(TOKENS_WITH_CODES).logits.equal(model(TOKENS_WITH_CODES).logits)
        assert (rows_of(loaded)[0] is rows_of(loaded)[1]) == tied
    assert AutoTokenizer.from_pretrained(tmp_path / "export")("w7<a_0> <b_4>").input_ids == [7, 40, 49]


@pytest.mark.parametrize("rows", [44, 64])
def test_missing_tokens_are_refused_with_their_number(tmp_path: Path, rows: int) -> None:
    save_checkpoint(tmp_path, rows=rows)
    vocabulary = TokenizerVocabulary(tmp_path, CODES)
    with pytest.raises(
        ValueError, match=rf"lacks 10 of the 50 tokens of the vocabulary \(it scores {rows}\).*set new_"
    ):
        Checkpoint(tmp_path).build(vocabulary, tmp_path)
    with pytest.raises(ValueError, match="new_tokens is mean, but new_vocabulary replaces all embeddings"):
        Checkpoint(tmp_path, new_vocabulary=True, new_tokens="mean")


def test_another_tokenizer_is_refused_even_with_new_tokens(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model")
    save_checkpoint(tmp_path / "other")
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"w7"', '"v7"'))
    with pytest.raises(ValueError, match="is not that of the prompt"):
        Checkpoint(tmp_path / "other", new_tokens="mean").build(
            TokenizerVocabulary(tmp_path / "model", CODES), tmp_path
        )


def test_a_new_model_takes_special_tokens_and_size_from_the_vocabulary(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    vocabulary = TokenizerVocabulary(tmp_path, CODES)
    config = NewModel("llama", LLAMA_LIKE).build(vocabulary, tmp_path).config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (50, 1, 2, 2)
    vocabulary.bos_token = vocabulary.eos_token = None
    config = NewModel("llama", LLAMA_LIKE).build(vocabulary, tmp_path).config
    assert (config.bos_token_id, config.eos_token_id) == (None, None)


def test_weights_that_are_not_those_of_the_config_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.norm.weight"], weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    vocabulary = TokenizerVocabulary(tmp_path)
    with pytest.raises(ValueError, match=r"not those of its config\.json \(llama\): lm_head\.weight and 1 others"):
        Checkpoint(tmp_path).build(vocabulary, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: expected model\.safetensors"):
        Checkpoint(tmp_path).build(vocabulary, tmp_path)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama9"}))
    with pytest.raises(ValueError, match=f"transformers cannot load {tmp_path}: .*llama9"):
        Checkpoint(tmp_path).build(TokenizerVocabulary(tmp_path), tmp_path)


@torch.no_grad()
def test_pickled_weights_need_a_setting_and_run_no_code(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    vocabulary = TokenizerVocabulary(tmp_path)
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is a pickle.*set allow_pickle"):
        Checkpoint(tmp_path).build(vocabulary, tmp_path)
    with pytest.raises(ValueError, match="is a pickle"):
        Checkpoint(tmp_path).fingerprint(tmp_path)
    source = Checkpoint(tmp_path, allow_pickle=True)
    assert source.build(vocabulary, tmp_path)(TOKENS).logits.equal(saved(TOKENS).logits)
    before = source.fingerprint(tmp_path)
    torch.save({**saved.state_dict(), "code": Code(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    assert source.fingerprint(tmp_path) != before
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        source.build(vocabulary, tmp_path)
    assert not (tmp_path / "ran").exists()


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


@torch.no_grad()
def test_code_of_a_model_runs_only_if_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    folder = tmp_path / "model"
    saved = save_checkpoint(folder)
    (folder / "doubled.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class DoubledConfig(LlamaConfig):\n    model_type = 'doubled'\n"
        "class DoubledForCausalLM(LlamaForCausalLM):\n    config_class = DoubledConfig\n"
        "    def forward(self, *args, **kwargs):\n"
        "        output = super().forward(*args, **kwargs)\n"
        "        output.logits = 2 * output.logits\n"
        "        return output\n"
    )
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "doubled.DoubledConfig", "AutoModelForCausalLM": "doubled.DoubledForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "doubled", "auto_map": auto_map}))
    vocabulary = TokenizerVocabulary(folder)
    with pytest.raises(ValueError, match="has a 'doubled' model, which transformers does not have.*set trust_code"):
        Checkpoint(folder).build(vocabulary, tmp_path)
    assert not (tmp_path / "ran").exists()
    model = Checkpoint(folder, trust_code=True).build(vocabulary, tmp_path)
    assert model(TOKENS).logits.equal(2 * saved(TOKENS).logits)
    export(model, vocabulary, tmp_path / "export")
    again = Checkpoint(tmp_path / "export", trust_code=True).build(vocabulary, tmp_path)
    assert again(TOKENS).logits.equal(model(TOKENS).logits)


def test_the_fingerprint_follows_weights_and_settings(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, max_shard_size="10KB")
    found = {
        Checkpoint(tmp_path, **settings).fingerprint(tmp_path)
        for settings in (
            {},
            {"dtype": "bfloat16"},
            {"new_tokens": "mean"},
            {"new_tokens": "random"},
            {"new_tokens": "random", "seed": 1},
            {"new_vocabulary": True},
        )
    }
    assert len(found) == 6
    assert Checkpoint(tmp_path, trust_code=True, allow_pickle=True).fingerprint(tmp_path) in found
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    save_file({name: weight + 1 for name, weight in load_file(last).items()}, last, {"format": "pt"})
    assert Checkpoint(tmp_path).fingerprint(tmp_path) not in found


HIDDEN = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 7], "repetition_penalty": 1.3, "suppress_tokens": [9]}
"""Without ``do_sample``, ``transformers`` calls this invalid, and refuses to save it once it has changed."""


@pytest.mark.parametrize("new_vocabulary", [False, True])
def test_an_export_keeps_hidden_generation_settings(tmp_path: Path, new_vocabulary: bool) -> None:
    save_checkpoint(tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(HIDDEN))
    vocabulary = CompactVocabulary(CODES) if new_vocabulary else TokenizerVocabulary(tmp_path / "model")
    model = Checkpoint(tmp_path / "model", new_vocabulary=new_vocabulary).build(vocabulary, tmp_path)
    export(model, vocabulary, tmp_path / "export")
    expected = {**HIDDEN, "eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0} if new_vocabulary else HIDDEN
    assert model.generation_config.temperature == 0.6
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "export").generation_config
    assert {name: getattr(settings, name) for name in expected} == expected
