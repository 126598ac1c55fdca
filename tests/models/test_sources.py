from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from atspeed.catalog import CompactVocabulary
from atspeed.models import Checkpoint, Exported, NewModel, export, model_folder

VOCABULARY = CompactVocabulary(["<a_1>", "<a_2>", "<b_1>"])
TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
TOKENS = torch.tensor([[1, 3, 5, 2]])


@pytest.mark.parametrize(
    ("model_type", "config"),
    [("llama", TINY), ("qwen3", TINY), ("gpt2", {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32})],
)
@torch.no_grad()
def test_a_new_model_comes_back_from_plain_transformers(tmp_path: Path, model_type: str, config: dict) -> None:
    model = NewModel(model_type, config).build(VOCABULARY, tmp_path)
    export(model, VOCABULARY, tmp_path / "model")
    assert sorted(file.suffix for file in (tmp_path / "model").iterdir() if "model" in file.name) == [".safetensors"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits)
    assert loaded.config.vocab_size == len(VOCABULARY)
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id, loaded.config.pad_token_id) == (1, None, 0)
    assert AutoTokenizer.from_pretrained(tmp_path / "model").convert_tokens_to_ids("<b_1>") == 5
    ours = Checkpoint(tmp_path / "model").build(VOCABULARY, tmp_path)
    torch.testing.assert_close(ours(TOKENS).logits, model(TOKENS).logits)


def test_a_seed_fixes_the_weights(tmp_path: Path) -> None:
    first, again, other = (NewModel("llama", TINY, seed).build(VOCABULARY, tmp_path) for seed in (1, 1, 2))
    assert first.lm_head.weight.equal(again.lm_head.weight)
    assert not first.lm_head.weight.equal(other.lm_head.weight)


def test_an_unknown_config_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"LlamaConfig knows no \['hidden_sise'\]"):
        NewModel("llama", {**TINY, "hidden_sise": 8}).build(VOCABULARY, tmp_path)


def test_another_catalogs_model_is_refused(tmp_path: Path) -> None:
    export(NewModel("llama", TINY).build(VOCABULARY, tmp_path), VOCABULARY, tmp_path / "model")
    with pytest.raises(ValueError, match=r"\(6 tokens\) is not the catalog's \(4 tokens\).*for another catalog"):
        Checkpoint(tmp_path / "model").build(CompactVocabulary(["<a_1>"]), tmp_path)


def test_a_foreign_model_keeps_its_body_under_a_new_vocabulary(tmp_path: Path) -> None:
    foreign = LlamaForCausalLM(LlamaConfig(vocab_size=50, **TINY))
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(ValueError, match="has no tokenizer.json"):
        Checkpoint(tmp_path / "foreign").build(VOCABULARY, tmp_path)
    model = Checkpoint(tmp_path / "foreign", new_vocabulary=True).build(VOCABULARY, tmp_path)
    assert model.get_input_embeddings().weight.shape == model.get_output_embeddings().weight.shape == (6, 16)
    assert model.model.layers[0].mlp.up_proj.weight.equal(foreign.model.layers[0].mlp.up_proj.weight)
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, None, 0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a Hugging Face model folder: it has no config.json"):
        Checkpoint(tmp_path).build(VOCABULARY, tmp_path)


def test_a_missing_stage_names_the_command_that_makes_it(tmp_path: Path) -> None:
    command = f"python -m atspeed fit --config configs/target.yaml --trainer.default_root_dir {tmp_path}"
    with pytest.raises(FileNotFoundError, match=command):
        Exported("target").build(VOCABULARY, tmp_path)


def test_export_replaces_an_older_model_and_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "target")
    for seed in (1, 2):
        model = NewModel("llama", TINY, seed).build(VOCABULARY, tmp_path)
        export(model, VOCABULARY, folder)
    assert Exported("target").build(VOCABULARY, tmp_path).lm_head.weight.equal(model.lm_head.weight)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
