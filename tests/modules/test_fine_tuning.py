from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from atspeed.callbacks import HuggingFaceExport, TokenThroughput
from atspeed.catalog import CompactVocabulary
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.models import Exported, NewModel, model_folder
from atspeed.modules import FineTuning
from atspeed.modules.fine_tuning import next_token_loss
from tests.modules.tiny import TINY, fit


def test_loss_skips_what_is_no_label() -> None:
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[-100, 3, -100, 5], [-100, -100, 6, -100]])
    log_probs = logits.double().log_softmax(-1)
    expected = -(log_probs[0, 0, 3] + log_probs[0, 2, 5] + log_probs[1, 1, 6]) / 3
    torch.testing.assert_close(next_token_loss(logits, labels).double(), expected, atol=1e-6, rtol=1e-6)


def test_a_fit_learns_logs_and_exports(tmp_path: Path) -> None:
    module = FineTuning("target", NewModel("llama", TINY), learning_rate=1e-2, warmup_steps=2)
    data = RecommendationData(EmbeddedCatalog(num_users=300, num_items=140), max_tokens=1024)
    trainer = fit(module, data, tmp_path, max_epochs=2, callbacks=[HuggingFaceExport(), TokenThroughput()])
    assert trainer.callback_metrics["train/loss"] < 3.5, "guessing codes costs about 4.6 nats"
    assert trainer.callback_metrics["train/padding"] < 0.1
    assert trainer.callback_metrics["train/tokens_per_second"] > 0
    exported = AutoModelForCausalLM.from_pretrained(model_folder(tmp_path, "target")).eval()
    tokens = torch.tensor([[1, 3, 4]])
    torch.testing.assert_close(exported(tokens).logits, module.model.eval()(tokens).logits)
    assert Exported("target").build(CompactVocabulary(data.catalog.words), tmp_path).config.vocab_size == len(
        CompactVocabulary(data.catalog.words)
    )


def test_the_model_trains_in_training_mode_also_from_a_checkpoint(tmp_path: Path) -> None:
    class Modes(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
            modes.append(all(module.training for module in pl_module.modules()))

    modes: list[bool] = []
    data = RecommendationData(EmbeddedCatalog(num_users=20, num_items=140))
    fit(FineTuning("target", NewModel("llama", TINY)), data, tmp_path, callbacks=[HuggingFaceExport()])
    fit(FineTuning("draft", Exported("target")), data, tmp_path, callbacks=[Modes()])
    assert modes
    assert all(modes)


def test_prompts_too_long_for_the_model_are_refused(tmp_path: Path) -> None:
    module = FineTuning("target", NewModel("llama", {**TINY, "max_position_embeddings": 50}))
    with pytest.raises(ValueError, match=r"data\.max_history is 20: prompts of up to 106 tokens, .* 50"):
        fit(module, RecommendationData(EmbeddedCatalog(num_users=20)), tmp_path)


@pytest.mark.slow
def test_a_killed_fit_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    class Kill(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise KilledError

    def module() -> FineTuning:
        return FineTuning("target", NewModel("llama", TINY))

    def checkpoints(folder: str) -> pl.Callback:
        return pl.callbacks.ModelCheckpoint(tmp_path / folder, save_last=True)

    data = RecommendationData(EmbeddedCatalog(num_users=60, num_items=140), max_tokens=1024)
    whole, resumed = module(), module()
    fit(whole, data, tmp_path, max_epochs=4, callbacks=[checkpoints("whole")])
    with pytest.raises(KilledError):
        fit(module(), data, tmp_path, max_epochs=4, callbacks=[checkpoints("killed"), Kill()])
    fit(resumed, data, tmp_path, max_epochs=4, callbacks=[checkpoints("killed")], ckpt_path="last")
    for ours, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(ours, expected)
