from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from atspeed.callbacks import HuggingFaceExport
from atspeed.catalog import CompactVocabulary
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.models import Checkpoint, Exported, LoRA, NewModel, export, model_folder
from atspeed.modules import FineTuning
from tests.modules.tiny import TINY, fit

TOKENS = torch.tensor([[1, 3, 4, 5, 2, 6]])
GPT2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128}
TIED = {**TINY, "head_dim": 16, "num_key_value_heads": 2, "tie_word_embeddings": True}


def data() -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users=30, num_items=140), max_tokens=1024)


def fine_tuning(network: LoRA) -> FineTuning:
    return FineTuning("target", network, learning_rate=1e-2, warmup_steps=1)


@pytest.mark.parametrize(("model_type", "config"), [("llama", TINY), ("qwen3", TIED), ("gpt2", GPT2)])
@torch.no_grad()
def test_the_export_is_a_plain_model_with_equal_logits(tmp_path: Path, model_type: str, config: dict) -> None:
    base = NewModel(model_type, config)
    module = fine_tuning(LoRA(base, rank=4))
    with torch.enable_grad():
        trainer = fit(module, data(), tmp_path, callbacks=[HuggingFaceExport()], max_epochs=3)
    original = base.build(CompactVocabulary(module.data.catalog.words), tmp_path)
    trained = {name: value for name, value in module.model.named_parameters() if value.requires_grad}
    embeddings = {name for name, _ in original.named_parameters() if "wte" in name or "embed" in name or "head" in name}
    assert {name for name in trained if "lora_" not in name} == embeddings
    for name, value in original.named_parameters():
        ours = dict(module.model.named_parameters())
        name = (
            name if name in ours else name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        )
        assert ours[name].equal(value) == (name not in embeddings), name
    expected = module.model.eval()(TOKENS).logits
    assert (expected - original(TOKENS).logits).abs().max() > 1e-2, "nothing was learnt"
    folder = model_folder(tmp_path, "target")
    for loaded in (
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        Exported("target").build(CompactVocabulary(trainer.datamodule.catalog.words), tmp_path),  # type: ignore[attr-defined]
    ):
        assert type(loaded) is type(original)
        assert not any("lora" in name for name in loaded.state_dict())
        torch.testing.assert_close(loaded(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_has_what_is_trained_and_restores_it(tmp_path: Path) -> None:
    whole, resumed = (fine_tuning(LoRA(NewModel("llama", TINY), rank=4, dropout=0.0)) for _ in range(2))
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    torch.manual_seed(0)
    fit(whole, data(), tmp_path, callbacks=[checkpoints], max_epochs=2)
    state = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)["state_dict"]
    assert set(state) == {name for name, value in whole.named_parameters() if value.requires_grad}
    torch.manual_seed(1)  # other adapters to start from, all of which the checkpoint replaces
    fit(resumed, data(), tmp_path, max_epochs=2, ckpt_path=str(tmp_path / "epoch=0.ckpt"))
    for ours, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)


def test_frozen_weights_in_bfloat16_train_under_mixed_precision_and_export_as_float32(tmp_path: Path) -> None:
    foreign = NewModel("llama", {**TINY, "num_hidden_layers": 2})
    source = data()
    source.setup()
    export(
        foreign.build(CompactVocabulary(source.catalog.words), tmp_path),
        CompactVocabulary(source.catalog.words),
        tmp_path / "base",
    )
    module = fine_tuning(LoRA(Checkpoint(tmp_path / "base", new_vocabulary=True), base_dtype="bfloat16"))
    trainer = fit(module, data(), tmp_path, callbacks=[HuggingFaceExport()], max_epochs=4, precision="bf16-mixed")
    for name, value in module.model.named_parameters():
        assert value.dtype == (torch.float32 if value.requires_grad else torch.bfloat16), name
    rotary = module.model.model.rotary_emb.inv_freq
    assert rotary.dtype == torch.float32
    assert trainer.callback_metrics["train/loss"] < 4.2
    loaded = Exported("target").build(CompactVocabulary(source.catalog.words), tmp_path)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        ours = module.model.eval()(TOKENS).logits
    torch.testing.assert_close(loaded(TOKENS).logits, ours.float(), atol=0.1, rtol=0.1)


def test_the_fingerprint_follows_base_and_settings(tmp_path: Path) -> None:
    sources = [LoRA(NewModel("llama", TINY, seed), rank=rank) for seed in (0, 1) for rank in (4, 8)]
    assert len({source.fingerprint(tmp_path) for source in sources}) == 4


def test_settings_that_cannot_work_are_refused(tmp_path: Path) -> None:
    base, source = NewModel("llama", TINY), data()
    source.setup()
    with pytest.raises(ValueError, match=r"lora\.rank is 0"):
        LoRA(base, rank=0)
    with pytest.raises(ValueError, match=r"lora\.dropout is 1\.0"):
        LoRA(base, dropout=1.0)
    with pytest.raises(ValueError, match="includes the embeddings, which are trained completely"):
        LoRA(base, target_modules=["q_proj", "lm_head"]).build(CompactVocabulary(source.catalog.words), tmp_path)
