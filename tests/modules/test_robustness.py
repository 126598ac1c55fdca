"""Fits that are killed, that meet a loss which is not finite, that accumulate gradients or train in bf16."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from atspeed.catalog import CompactVocabulary
from atspeed.data import EmbeddedCatalog, ItemSequences, RecommendationData, RequestBatch
from atspeed.decoding import ModelDrafter, StrictTopK
from atspeed.losses import ForwardKL, Prefixes
from atspeed.models import Exported, NewModel
from atspeed.models.sources import export
from atspeed.modules import Alignment, FineTuning, Inference
from tests.modules import resuming
from tests.modules.resuming import Recorder
from tests.modules.tiny import TINY, fit, make_trainer


def records(run_dir: Path) -> list[list]:
    return [json.loads(line) for line in (run_dir / "losses.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "steps_into_epoch"),
    [("fine_tuning", 2), ("fine_tuning", 0), ("accumulated", 1), ("alignment", 1)],
    ids=["fine-tuning", "saved at the last batch of an epoch", "gradients accumulated", "alignment"],
)
def test_a_killed_fit_resumes_as_if_nothing_had_happened(tmp_path: Path, kind: str, steps_into_epoch: int) -> None:
    """Users, losses and weights to the last digit: order of the data, optimiser, schedule, dropout."""
    weights = resuming.run(tmp_path / "uninterrupted", kind, every_n_steps=1000)
    uninterrupted = records(tmp_path / "uninterrupted")
    steps_per_epoch = -(-len(uninterrupted) // 3 // resuming.ACCUMULATED[kind])
    every_n_steps = steps_per_epoch + steps_into_epoch
    command = [sys.executable, "-m", "tests.modules.resuming", str(tmp_path / "killed"), kind]
    done = subprocess.run([*command, str(every_n_steps), str(every_n_steps + 1)], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    before = records(tmp_path / "killed")
    checkpoint = torch.load(tmp_path / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    saved = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"]
    assert before == uninterrupted[: len(before)]
    assert len(uninterrupted) / 3 <= saved < len(before), "a batch after the checkpoint is lost with the process"
    resumed = resuming.run(tmp_path / "killed", kind, every_n_steps, resume=True)
    assert records(tmp_path / "killed")[len(before) :] == uninterrupted[saved:]
    for name, value in weights.items():
        assert resumed[name].equal(value)


class NaNAt(ForwardKL):
    """Fails at one training batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch, self.calls = batch, 0

    def forward(self, prefixes: Prefixes) -> torch.Tensor:
        self.calls += self.training and prefixes.level == 0  # not in validation
        return super().forward(prefixes) * (torch.nan if self.training and self.calls > self.batch else 1.0)


class Watch(pl.Callback):
    """Keeps the users and the weights before each batch."""

    def on_train_batch_start(self, trainer, pl_module, batch: RequestBatch, batch_idx: int) -> None:  # type: ignore[no-untyped-def, override]
        self.users = [trainer.datamodule.dataset.users[row] for row in batch.users.tolist()]
        self.weights = {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def small_data(examples: str, **settings: int) -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(40, 140), examples=examples, **{"max_tokens": 512, **settings})  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_stops_the_fit_and_names_the_batch(tmp_path: Path) -> None:
    module = Alignment("strict", NewModel("llama", TINY), NewModel("llama", TINY, 1), NaNAt(2), num_beams=2)
    watch = Watch()
    with pytest.raises(FloatingPointError) as error:
        fit(module, small_data("requests"), tmp_path, callbacks=[watch])
    users = ", ".join(watch.users)
    start = f"the loss is nan in epoch 0, batch 2 (both from 0), process 0, with the users {users}; the weights"
    assert str(error.value).startswith(start)
    for name, value in module.model.state_dict().items():
        assert value.equal(watch.weights[name]), "the weights are untouched"


def test_a_checkpoint_that_is_saved_when_the_loss_fails_goes_on_with_that_batch(tmp_path: Path) -> None:
    def module(loss: ForwardKL) -> Alignment:
        return Alignment("strict", NewModel("llama", TINY), NewModel("llama", resuming.DROPPING, 1), loss, num_beams=2)

    def checkpoint() -> pl.Callback:
        return pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=100, save_last=True, save_on_exception=True)

    uninterrupted, resumed = module(ForwardKL()), module(ForwardKL())
    failed, after = Watch(), Recorder(tmp_path / "log")
    fit(uninterrupted, small_data("requests"), tmp_path)
    with pytest.raises(FloatingPointError):
        fit(module(NaNAt(2)), small_data("requests"), tmp_path, callbacks=[failed, checkpoint()])
    fit(resumed, small_data("requests"), tmp_path, ckpt_path=str(tmp_path / "last.ckpt"), callbacks=[after])
    epoch, batch, users, _ = json.loads((tmp_path / "log").read_text().splitlines()[0])
    assert (epoch, batch, [f"user-{user}" for user in users]) == (0, 2, failed.users)
    for ours, theirs in zip(resumed.model.parameters(), uninterrupted.model.parameters(), strict=True):
        assert ours.equal(theirs)


def test_fine_tuning_stops_too(tmp_path: Path) -> None:
    class Spoil(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
            if trainer.global_step == 3:
                pl_module.model.lm_head.weight.data[5] = torch.inf

    module = FineTuning("target", NewModel("llama", TINY))
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 0, batch 3 .* users user-\d+"):
        fit(module, small_data("sequences"), tmp_path, callbacks=[Spoil()])


@pytest.mark.parametrize("kind", ["fine_tuning", "alignment"])
def test_accumulated_gradients_are_those_of_one_batch(tmp_path: Path, kind: str) -> None:
    """Eight users with histories of one length, in one batch or one by one, without dropout."""
    finals = []
    for accumulate in (1, 8):
        data = small_data("sequences" if kind == "fine_tuning" else "requests")
        data.setup()
        users = [user for user, items in enumerate(data.dataset.train) if len(items) >= 6][:8]
        few = {split: [getattr(data.dataset, split)[user] for user in users] for split in ("valid", "test")}
        few["train"] = [data.dataset.train[user][:6] for user in users]
        splits = {split: ItemSequences.from_lists(sequences) for split, sequences in few.items()}
        data.dataset = replace(data.dataset, users=[data.dataset.users[user] for user in users], **splits)
        data.max_tokens = 512 if accumulate == 1 else 1
        if kind == "fine_tuning":
            module: FineTuning | Alignment = FineTuning("target", NewModel("llama", TINY))
        else:
            module = Alignment("strict", NewModel("llama", TINY), NewModel("llama", TINY, 1), ForwardKL(), num_beams=2)
        trainer = fit(module, data, tmp_path, accumulate_grad_batches=accumulate, max_epochs=3, limit_val_batches=0)
        assert trainer.num_training_batches == accumulate
        assert trainer.global_step == 3
        finals.append(module.model.state_dict())
    before = (
        NewModel("llama", TINY, int(kind == "alignment"))
        .build(CompactVocabulary(data.catalog.words), tmp_path)
        .state_dict()
    )
    moved = max(float((finals[0][name] - before[name]).abs().max()) for name in before)
    for name, value in finals[0].items():
        torch.testing.assert_close(finals[1][name], value, atol=1e-3 * moved, rtol=0)


@pytest.mark.parametrize("kind", ["fine_tuning", "alignment"])
def test_bf16_mixed_learns_with_losses_in_float32(tmp_path: Path, kind: str) -> None:
    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
            assert outputs["loss"].dtype == torch.float32
            values.append(float(outputs["loss"]))

    values: list[float] = []
    settings = {"learning_rate": 1e-2, "warmup_steps": 2}
    if kind == "fine_tuning":
        module: FineTuning | Alignment = FineTuning("target", NewModel("llama", TINY), **settings)  # type: ignore[arg-type]
    else:
        sources = NewModel("llama", TINY), NewModel("llama", TINY, 1)
        module = Alignment("strict", *sources, ForwardKL(), num_beams=2, **settings)  # type: ignore[arg-type]
    data = small_data("sequences" if kind == "fine_tuning" else "requests")
    fit(module, data, tmp_path, precision="bf16-mixed", max_epochs=4, callbacks=[Losses()])
    assert torch.tensor(values).isfinite().all()
    epoch = len(values) // 4
    assert sum(values[-epoch:]) < 0.95 * sum(values[:epoch])


@pytest.mark.parametrize("foreign", ["target", "draft"])
@pytest.mark.parametrize("kind", ["alignment", "recommender"])
def test_a_vocabulary_that_differs_is_refused(tmp_path: Path, kind: str, foreign: str) -> None:
    """One model was exported for this catalog, the other one for another catalog."""
    for stage in ("target", "draft"):
        data = small_data("requests")
        data.setup()
        codes = CompactVocabulary(data.catalog.words).words[3 : -1 if stage == foreign else None]
        vocabulary = CompactVocabulary(codes)
        export(NewModel("llama", TINY).build(vocabulary, tmp_path), vocabulary, tmp_path / stage / "model")
    message = (
        rf"the vocabulary of .*/{foreign}/model \(\d+ tokens\) is not the catalog's \(\d+ tokens\): the model was "
        "exported for another catalog"
    )
    target, draft, trainer = Exported("target"), Exported("draft"), make_trainer(tmp_path)
    run: Callable[[], object]
    if kind == "alignment":
        run = partial(trainer.fit, Alignment("strict", target, draft, ForwardKL()), data)
    else:
        run = partial(trainer.test, Inference("recommend", target, ModelDrafter(5, 2), StrictTopK(), draft), data)
    with pytest.raises(ValueError, match=message):
        run()
