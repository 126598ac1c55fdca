import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from atspeed.callbacks import HuggingFaceExport, PredictionWriter, SpeedupMonitor
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import Proposal, StrictTopK, TrieDrafter
from atspeed.decoding.beams import Beams
from atspeed.models import NewModel, is_packed, model_folder
from atspeed.modules import FineTuning, Inference
from tests.modules.tiny import TINY, fit, make_trainer


def fine_tuning() -> FineTuning:
    return FineTuning("target", NewModel("llama", TINY))


def data() -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users=20, num_items=140))


class Interrupt(pl.Callback):
    def on_train_batch_end(self, *_: object) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_fit_exports_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(fine_tuning(), data(), tmp_path, callbacks=[HuggingFaceExport(), Interrupt()])
    assert not model_folder(tmp_path, "target").exists()


def test_a_trial_run_exports_nothing(tmp_path: Path) -> None:
    fit(fine_tuning(), data(), tmp_path, callbacks=[HuggingFaceExport()], fast_dev_run=True)
    assert not model_folder(tmp_path, "target").exists()


@pytest.mark.parametrize(
    ("callback", "hook", "stage", "needed"),
    [
        (SpeedupMonitor(), "on_test_start", (), "an Inference"),
        (PredictionWriter(), "setup", ("predict",), "an Inference"),
        (HuggingFaceExport(), "on_train_end", (), "a StageModule"),
    ],
)
def test_callbacks_name_the_module_they_need(
    tmp_path: Path, callback: pl.Callback, hook: str, stage: tuple[str, ...], needed: str
) -> None:
    trainer = make_trainer(tmp_path)
    with pytest.raises(TypeError, match=f"{type(callback).__name__} needs {needed}, not LightningModule"):
        getattr(callback, hook)(trainer, pl.LightningModule(), *stage)


@pytest.mark.parametrize(("num_users", "least", "most"), [(24, 0, 0.5), (18, 0.2, 10)])
def test_speedup_counts_all_batches_but_the_first(tmp_path: Path, num_users: int, least: float, most: float) -> None:
    class Slow(TrieDrafter):
        def propose(self, beams: Beams, *others: Any) -> Proposal:
            time.sleep(0.3 * (len(beams.nodes) == 12))
            return super().propose(beams, *others)

    requests = RecommendationData(EmbeddedCatalog(num_users, 140), batch_size=12)  # batches of 12 and 12, or 12 and 6
    module = Inference("recommend", NewModel("llama", TINY), Slow(), StrictTopK(), num_beams=5, metrics_at=[5])
    (values,) = make_trainer(tmp_path, callbacks=[SpeedupMonitor(5)]).test(module, requests, verbose=False)
    assert least < values["test/speedup"] < most


def test_the_monitor_takes_the_drafter_as_the_module_has_prepared_it(tmp_path: Path) -> None:
    prepared = []

    class Counted(TrieDrafter):
        def prepare(self, *models_and_tolerance: Any) -> None:
            prepared.append(is_packed(models_and_tolerance[0]))
            super().prepare(*models_and_tolerance)

    module = Inference("recommend", NewModel("llama", TINY), Counted(), StrictTopK(), num_beams=5, metrics_at=[5])
    make_trainer(tmp_path, callbacks=[SpeedupMonitor(5)]).test(module, data(), verbose=False)
    assert prepared == [True]


def test_batches_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_batches is 0; expected 1 or more"):
        SpeedupMonitor(num_batches=0)
