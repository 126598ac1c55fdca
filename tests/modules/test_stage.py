"""What every module brings to a Trainer that is made in Python."""

from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.models import NewModel
from atspeed.modules import FineTuning
from atspeed.modules.batch_seed import BatchSeed
from atspeed.modules.finite_loss import FiniteLoss
from tests.modules.tiny import TINY, fit


class Draw(pl.Callback):
    """A user's callback that consumes random numbers before each batch."""

    def on_train_batch_start(self, *_: object) -> None:
        torch.rand(3)


def fitted(run_dir: Path, *callbacks: pl.Callback, seed: int = 0) -> tuple[FineTuning, pl.Trainer]:
    module = FineTuning("target", NewModel("llama", {**TINY, "attention_dropout": 0.3}), warmup_steps=2)
    data = RecommendationData(EmbeddedCatalog(24, 140), max_tokens=512, seed=seed)
    return module, fit(module, data, run_dir, callbacks=list(callbacks), limit_train_batches=3, limit_val_batches=0)


def test_the_modules_callbacks_run_after_the_users_and_before_checkpoints(tmp_path: Path) -> None:
    checkpoint, draw = ModelCheckpoint(tmp_path), Draw()
    _, trainer = fitted(tmp_path, checkpoint, draw)
    ours = [each for each in trainer.callbacks if isinstance(each, Draw | BatchSeed | FiniteLoss | ModelCheckpoint)]  # type: ignore[attr-defined]
    assert [type(each) for each in ours] == [Draw, BatchSeed, FiniteLoss, ModelCheckpoint]


def test_random_numbers_that_a_users_callback_draws_change_nothing(tmp_path: Path) -> None:
    modules = []
    for callbacks in ([], [Draw()]):
        torch.manual_seed(0)
        modules.append(fitted(tmp_path, *callbacks)[0])
    for ours, theirs in zip(*(module.model.parameters() for module in modules), strict=True):
        assert ours.equal(theirs)


def test_a_second_fit_by_the_same_trainer_has_the_callbacks_once(tmp_path: Path) -> None:
    module, trainer = fitted(tmp_path)
    again = RecommendationData(EmbeddedCatalog(24, 140), max_tokens=512, seed=7)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, again)
    (seed,) = [each for each in trainer.callbacks if isinstance(each, BatchSeed)]  # type: ignore[attr-defined]
    (finite,) = [each for each in trainer.callbacks if isinstance(each, FiniteLoss)]  # type: ignore[attr-defined]
    assert seed.seed == 7
    assert finite.data is again
