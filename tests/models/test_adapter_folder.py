"""A PEFT adapter on its base is the model that PEFT makes of the two, and plain once it is exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from atspeed.catalog.tokenizer_vocabulary import TokenizerVocabulary
from atspeed.models import Checkpoint, adapter_folder, export
from tests.models.checkpoints import CODES, TOKENS, TOKENS_WITH_CODES, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EMBEDDINGS = ["embed_tokens", "lm_head"]


def save_adapter(folder: Path, base: Path, rows: int | None = None, **settings: Any) -> PeftModel:
    """Write a random adapter on q_proj, without a tokenizer; return it on its base.

    Args:
        folder: of the adapter.
        base: folder of the base.
        rows: of the embedding matrix, if it is resized.
        settings: of the adapter's configuration.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, **{"target_modules": ["q_proj"], **settings}))
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("base_rows", "rows", "tied", "settings"),
    [
        (64, None, False, {}),
        (40, 50, False, {}),
        (40, 50, True, {}),
        (64, 50, False, {}),  # as resize_token_embeddings(len(tokenizer)) makes of a padded matrix
        (40, 50, False, {"modules_to_save": EMBEDDINGS}),
        (40, 50, True, {"modules_to_save": EMBEDDINGS}),  # no longer tied
        (40, 50, False, {"target_modules": ["q_proj", *EMBEDDINGS]}),
        (40, 50, True, {"trainable_token_indices": [40, 41, 49]}),
        (64, None, False, {"use_dora": True}),
    ],
)
@torch.no_grad()
def test_an_adapter_is_merged_into_its_base(
    tmp_path: Path, base_rows: int, rows: int | None, tied: bool, settings: dict
) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    plain = save_checkpoint(base, rows=base_rows, tie_word_embeddings=tied)
    adapted = save_adapter(folder, base, rows, **settings)
    vocabulary = TokenizerVocabulary(base, CODES if rows else ())
    if rows:
        vocabulary.save(folder)
    tokens = TOKENS_WITH_CODES if rows else TOKENS
    expected = adapted(tokens).logits
    model = Checkpoint(folder).build(vocabulary, tmp_path)
    assert type(model) is type(plain)
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-5, rtol=1e-5)
    export(model, vocabulary, tmp_path / "export")
    for loaded in (
        AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval(),
        Checkpoint(tmp_path / "export").build(TokenizerVocabulary(tmp_path / "export"), tmp_path),
    ):
        assert loaded(tokens).logits.equal(model(tokens).logits)


@torch.no_grad()
def test_an_adapter_merges_in_bfloat16(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base", dtype="bfloat16")
    expected = save_adapter(tmp_path / "adapter", tmp_path / "base")(TOKENS).logits.float()
    model = Checkpoint(tmp_path / "adapter", dtype="bfloat16").build(TokenizerVocabulary(tmp_path / "base"), tmp_path)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(model(TOKENS).logits.float(), expected, atol=0.1, rtol=0.1)


@torch.no_grad()
def test_the_base_is_a_folder_here(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base")
    expected = save_adapter(tmp_path / "adapter", tmp_path / "base")(TOKENS).logits
    file, vocabulary = tmp_path / "adapter" / "adapter_config.json", TokenizerVocabulary(tmp_path / "base")
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": "org/model-7b"}))
    for call in (lambda source: source.build(vocabulary, tmp_path), lambda source: source.fingerprint(tmp_path)):
        with pytest.raises(
            FileNotFoundError, match=r"adapter for the model 'org/model-7b', which is not .*adapter_base"
        ):
            call(Checkpoint(tmp_path / "adapter"))
    model = Checkpoint(tmp_path / "adapter", adapter_base=tmp_path / "base").build(vocabulary, tmp_path)
    torch.testing.assert_close(model(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_pickled_adapter_needs_a_setting(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base")
    expected = save_adapter(tmp_path / "adapter", tmp_path / "base")(TOKENS).logits
    file, vocabulary = tmp_path / "adapter" / "adapter_model.safetensors", TokenizerVocabulary(tmp_path / "base")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle.*set allow_pickle"):
        Checkpoint(tmp_path / "adapter").build(vocabulary, tmp_path)
    model = Checkpoint(tmp_path / "adapter", allow_pickle=True).build(vocabulary, tmp_path)
    torch.testing.assert_close(model(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_the_fingerprint_follows_adapter_and_base(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "base")
    save_adapter(tmp_path / "adapter", tmp_path / "base")
    source = Checkpoint(tmp_path / "adapter")
    found = [source.fingerprint(tmp_path)]
    for file in ("adapter/adapter_model.safetensors", "base/model.safetensors"):
        weights = {name: weight + 1 for name, weight in load_file(tmp_path / file).items()}
        save_file(weights, tmp_path / file, {"format": "pt"})
        found.append(source.fingerprint(tmp_path))
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 8', '"lora_alpha": 9'))
    found.append(source.fingerprint(tmp_path))
    assert len(set(found)) == 4


def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "base", tie_word_embeddings=True)
    save_checkpoint(tmp_path / "wide", hidden_size=64)
    vocabulary = TokenizerVocabulary(tmp_path / "base")

    def build(name: str, **settings: Any) -> None:
        Checkpoint(tmp_path / name, **settings).build(vocabulary, tmp_path)

    save_adapter(tmp_path / "tied", tmp_path / "base", target_modules=["embed_tokens"])
    with pytest.raises(ValueError, match="has a LORA adapter on embeddings that the model ties"):
        build("tied")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    prefix = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    prefix.save_pretrained(tmp_path / "prefix")
    with pytest.raises(ValueError, match="has a PREFIX_TUNING adapter, which cannot be merged into a model"):
        build("prefix")
    save_adapter(tmp_path / "good", tmp_path / "base")
    with pytest.raises(ValueError, match="good does not fit .*wide: .*size mismatch.*set adapter_base"):
        build("good", adapter_base=tmp_path / "wide")
    resized = save_adapter(tmp_path / "resized", tmp_path / "wide", 50, target_modules=["lm_head"])
    resized.save_pretrained(tmp_path / "resized", save_embedding_layers=False)  # the rows themselves are lost
    with pytest.raises(ValueError, match=r"resized does not fit .*size mismatch .*\[50, 2\]"):
        build("resized")
    with monkeypatch.context() as patch:
        patch.setattr(adapter_folder, "is_deepspeed_zero3_enabled", lambda: True)
        with pytest.raises(ValueError, match="cannot be merged in the shards of DeepSpeed ZeRO-3"):
            build("good")
    (tmp_path / "good" / "model.safetensors").touch()
    with pytest.raises(ValueError, match="has both an adapter and the weights of a model"):
        build("good")
