from pathlib import Path

import lightning.pytorch as pl
import pytest

from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.models import NewModel, model_folder
from atspeed.modules import FineTuning
from callbacks import HuggingFaceExport, PredictionWriter, SpeedupMonitor
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


@pytest.mark.parametrize("callback", [SpeedupMonitor(), PredictionWriter()])
def test_callbacks_name_the_module_they_need(tmp_path: Path, callback: pl.Callback) -> None:
    trainer = make_trainer(tmp_path)
    hook, stage = ("on_test_start", ()) if isinstance(callback, SpeedupMonitor) else ("setup", ("predict",))
    with pytest.raises(TypeError, match=f"{type(callback).__name__} needs a .*, not LightningModule"):
        getattr(callback, hook)(trainer, pl.LightningModule(), *stage)


def test_batches_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_batches is 0; expected 1 or more"):
        SpeedupMonitor(num_batches=0)
