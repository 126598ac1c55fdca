"""The draft is seen getting better, in the event files of a real alignment."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from atspeed.callbacks import HuggingFaceExport, LossParts, SpeculationMonitor
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import ModelDrafter, NoDrafter, Proposal, SpeculativeDecoder, TrieDrafter
from atspeed.decoding.beams import Beams
from atspeed.decoding.scorer import PrefixScorer
from atspeed.losses import AtSpeedS, ForwardKL, WeightedSum
from atspeed.models import Exported, ModelSource, NewModel
from atspeed.modules import Alignment, FineTuning, TargetCaching
from tests.modules.tiny import TINY, fit, make_trainer

ROOT = Path(__file__).parents[2]
NUM_BEAMS = 4


def data(examples: str = "requests", num_users: int = 150) -> RecommendationData:
    source = EmbeddedCatalog(num_users, num_items=140)
    return RecommendationData(source, examples=examples, max_tokens=1024)  # type: ignore[arg-type]


def alignment(target: ModelSource | None = None, draft: ModelSource | None = None, **settings: object) -> Alignment:
    arguments = {"loss": ForwardKL(), "alpha": 1.0, "num_beams": NUM_BEAMS, "learning_rate": 1e-2, **settings}
    target, draft = target or NewModel("llama", TINY, 1), draft or NewModel("llama", TINY, 2)
    return Alignment("strict", target, draft, **arguments)  # type: ignore[arg-type]


def monitor(**settings: object) -> SpeculationMonitor:
    arguments = {"drafter": ModelDrafter(8, 3), "num_beams": NUM_BEAMS, "num_users": 24, **settings}
    return SpeculationMonitor(**arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list], ModelCheckpoint]:
    """A run folder, the scalars of its alignment's events, and its checkpoint callback."""
    folder = tmp_path_factory.mktemp("run")
    for stage, seed, epochs, rate in (("target", 1, 6, 1e-2), ("draft", 2, 1, 1e-3)):
        module = FineTuning(stage, NewModel("llama", TINY, seed), learning_rate=rate, warmup_steps=2)
        fit(module, data("sequences"), folder, max_epochs=epochs, callbacks=[HuggingFaceExport()])
    best = ModelCheckpoint(folder / "best", monitor="val/target_calls", mode="min", filename="{step}")
    fit(
        alignment(Exported("target"), Exported("draft"), loss=AtSpeedS(NUM_BEAMS), warmup_steps=2),
        data(),
        folder,
        max_epochs=3,
        val_check_interval=0.34,
        limit_val_batches=2,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="strict", version=""),
        callbacks=[monitor(), LossParts(), best],
    )
    events = EventAccumulator(str(folder / "strict"), size_guidance={"scalars": 0})
    events.Reload()
    return folder, {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}, best


@pytest.mark.slow
def test_acceptance_rises_and_target_calls_fall(aligned: tuple[Path, dict[str, list], ModelCheckpoint]) -> None:
    _, scalars, _ = aligned
    for name, better in (("target_calls", -1), ("accepted_levels", 1), ("acceptance_rate", 1)):
        events = scalars[f"val/{name}"]
        values = [event.value for event in events]
        assert events[0].step == 0, "the curve starts at the draft that training starts from"
        assert len(values) == 10, "the start and 3 validations in each of 3 epochs"
        assert better * (mean(values[-3:]) - values[0]) > 0.1, f"{name}: {values}"
    assert {f"val/acceptance_rate_level_{level}" for level in range(3)} < scalars.keys()
    assert [event.value for event in scalars["val/overlap"]] == pytest.approx([1.0] * 10), "strict answers are exact"
    assert "val/acceptance_rate_level_3" not in scalars, "the last level needs no draft"


@pytest.mark.slow
def test_the_parts_of_the_loss_add_up_to_it(aligned: tuple[Path, dict[str, list], ModelCheckpoint]) -> None:
    _, scalars, _ = aligned
    for split in ("train", "val"):
        whole = [event.value for event in scalars[f"{split}/align_loss"]]
        parts = [scalars[f"{split}/align_loss/{name}"] for name in ("ReverseKL", "DensityRegularization")]
        assert len(whole) >= 9
        assert [a.value + b.value for a, b in zip(*parts, strict=True)] == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_target_calls_choose_the_checkpoint(aligned: tuple[Path, dict[str, list], ModelCheckpoint]) -> None:
    _, scalars, checkpoint = aligned
    calls = {event.step: event.value for event in scalars["val/target_calls"][1:]}
    assert checkpoint.best_model_score is not None
    assert float(checkpoint.best_model_score) == pytest.approx(min(calls.values()))
    step = torch.load(checkpoint.best_model_path, weights_only=True)["global_step"]
    assert calls[step - 1] == min(calls.values()), "Lightning logs a validation at the last step before it, from 0"


@pytest.mark.slow
def test_the_curves_are_drawn(aligned: tuple[Path, dict[str, list], ModelCheckpoint], tmp_path: Path) -> None:
    script = str(ROOT / "scripts" / "plot_curves.py")
    folder, picture = aligned[0] / "strict", tmp_path / "curves.png"
    subprocess.run([sys.executable, script, str(folder), str(picture)], check=True)
    assert picture.read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([sys.executable, script, str(tmp_path), str(picture)], capture_output=True, text=True)
    assert f"{tmp_path} has no TensorBoard scalars" in done.stderr


def test_a_fit_stops_early_when_target_calls_fall_no_more(tmp_path: Path) -> None:
    stopping = EarlyStopping("val/target_calls", mode="min", patience=2)
    trainer = fit(
        alignment(learning_rate=0.0),
        data(num_users=24),
        tmp_path,
        max_epochs=20,
        limit_val_batches=1,
        callbacks=[monitor(num_users=4), stopping],
    )
    assert trainer.current_epoch == stopping.stopped_epoch + 1 == 3


def test_a_fit_ends_with_what_it_brought_unless_it_was_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(max_epochs: int, ckpt_path: str | None) -> str:
        caplog.clear()
        values.clear()
        with caplog.at_level(logging.INFO, logger="atspeed"):
            checkpoint = ModelCheckpoint(tmp_path, save_last=True)
            callbacks = [monitor(num_users=4), checkpoint]
            module = alignment()
            fit(module, data(num_users=24), tmp_path, ckpt_path, max_epochs=max_epochs, callbacks=callbacks)
        return caplog.text

    values: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        measure = SpeculationMonitor._measure

        def measured(*arguments: object) -> dict[str, float]:
            result = measure(*arguments)  # type: ignore[arg-type]
            values.append(result["val/target_calls"])
            return result

        patch.setattr(SpeculationMonitor, "_measure", measured)
        text = run(1, None)
        assert f"strict: target calls per request {values[0]:.2f} before, {values[-1]:.2f} after" in text
        assert len(values) == 2
        assert "before" not in run(2, str(tmp_path / "last.ckpt")), "it did not see the draft that was started from"


def validated(folder: Path, module: Alignment, *callbacks: pl.Callback) -> dict[str, float]:
    trainer = make_trainer(folder, callbacks=list(callbacks), limit_val_batches=1)
    trainer.validate(module, data(num_users=24), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_values_are_those_of_the_decoder_on_users_from_the_whole_file(tmp_path: Path) -> None:
    class Recording(ModelDrafter):
        def propose(self, beams: Beams, target: PrefixScorer, *others: Any) -> Proposal:
            rows = zip(target.prompts, target.prompt_mask, strict=True)
            seen.update(tuple(prompt[mask].tolist()) for prompt, mask in rows)
            return super().propose(beams, target, *others)

    seen: set[tuple[int, ...]] = set()
    module = alignment()
    values = validated(tmp_path, module, monitor(drafter=Recording(8, 3), num_users=5))
    requests = module.data.requests("val")
    prompts = [module.data.encoder.encode(requests[index * len(requests) // 5].history) for index in range(5)]
    assert seen == {tuple(prompt.tolist()) for prompt in prompts}
    decoder = SpeculativeDecoder(module.target, module.trie, ModelDrafter(8, 3), draft=module.model)
    answers = [decoder(row[None], torch.ones_like(row[None], dtype=torch.bool), NUM_BEAMS) for row in prompts]
    assert values["val/target_calls"] == pytest.approx(mean(int(answer.target_calls) for answer in answers))
    assert values["val/draft_calls"] == pytest.approx(mean(int(answer.draft_calls) for answer in answers))
    assert values["val/overlap"] == 1


def test_a_drafter_without_a_draft_and_without_proposals_is_monitored(tmp_path: Path) -> None:
    assert validated(tmp_path, alignment(), monitor(drafter=TrieDrafter()))["val/target_calls"] < 4
    values = validated(tmp_path, alignment(), monitor(drafter=NoDrafter()))
    assert values["val/target_calls"] == 4
    assert "val/acceptance_rate" not in values, "nothing was drafted, so there is no rate"


def test_with_a_target_cache_the_monitor_loads_the_target_for_itself(tmp_path: Path) -> None:
    online = validated(tmp_path, alignment(), monitor())
    cached = alignment(target_cache=Path("cache"))
    make_trainer(tmp_path).predict(TargetCaching(cached, data(num_users=24)), return_predictions=False)
    values = validated(tmp_path, cached, monitor())
    assert not hasattr(cached, "target")
    assert values == pytest.approx(online, abs=1e-5)


def test_terms_of_the_same_class_are_numbered(tmp_path: Path) -> None:
    loss = WeightedSum([ForwardKL(), ForwardKL(), AtSpeedS(NUM_BEAMS)], [1.0, 2.0, 1.0])
    values = validated(tmp_path, alignment(loss=loss), LossParts())
    parts = {name.removeprefix("val/align_loss/"): value for name, value in values.items() if "loss/" in name}
    assert set(parts) == {"ForwardKL", "ForwardKL_2", "AtSpeedS", "ReverseKL", "DensityRegularization"}
    assert parts["ForwardKL"] == parts["ForwardKL_2"], "before their weights"
    assert values["val/align_loss"] == pytest.approx(3 * parts["ForwardKL"] + parts["AtSpeedS"], rel=1e-4)


@pytest.mark.parametrize("make", [monitor, LossParts])
def test_callbacks_name_the_module_they_need(tmp_path: Path, make: Callable[[], pl.Callback]) -> None:
    callback = make()
    with pytest.raises(TypeError, match=f"{type(callback).__name__} needs an Alignment, not FineTuning"):
        callback.setup(make_trainer(tmp_path), FineTuning("target", NewModel("llama", TINY)), "fit")


def test_under_zero_3_it_says_that_it_cannot_decode_and_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(tmp_path)
    for stage in (2, 3):
        monkeypatch.setattr(trainer._accelerator_connector, "strategy", DeepSpeedStrategy(stage=stage))
        callback = monitor()
        module = alignment()
        module.trainer = trainer
        callback.setup(trainer, module, "fit")
        assert ("SpeculationMonitor logs nothing" in caplog.text) == (stage == 3)
    callback.on_train_start(trainer, alignment())  # would need the models that are not built
    callback.on_validation_epoch_end(trainer, alignment())


@pytest.mark.parametrize("name", ["num_beams", "num_users"])
def test_settings_out_of_range_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected 1 or more"):
        monitor(**{name: 0})
