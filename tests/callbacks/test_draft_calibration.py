"""A calibration comes with an aligned draft, the same from the target and from its cache."""

import json
from pathlib import Path

import pytest

from atspeed.callbacks import DraftCalibration, HuggingFaceExport
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding.drafters.calibration import Calibration
from atspeed.losses import ForwardKL
from atspeed.models import Exported, NewModel
from atspeed.modules import Alignment, FineTuning, TargetCaching
from tests.modules.tiny import TINY, fit, make_trainer

NUM_BEAMS = 4


def data(examples: str = "requests") -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(60, num_items=140), examples=examples, max_tokens=1024)  # type: ignore[arg-type]


def alignment(cached: bool) -> Alignment:
    return Alignment(
        "strict",
        Exported("target"),
        NewModel("llama", TINY, 2),
        ForwardKL(),
        num_beams=NUM_BEAMS,
        target_cache=Path("cache") if cached else None,
    )


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    fit(FineTuning("target", NewModel("llama", TINY, 1)), data("sequences"), folder, callbacks=[HuggingFaceExport()])
    return folder


def calibrated(run_dir: Path, cached: bool) -> Calibration:
    fit(alignment(cached), data(), run_dir, callbacks=[HuggingFaceExport(), DraftCalibration(num_users=20)])
    record = json.loads((run_dir / "strict" / "model" / "calibration.json").read_text())
    assert record["target"] == Exported("target").fingerprint(run_dir)
    return Calibration.from_json(record["levels"])


def test_the_targets_cache_gives_the_calibration_that_the_target_gives(run_dir: Path) -> None:
    make_trainer(run_dir).predict(TargetCaching(alignment(True), data()), return_predictions=False)
    online, cached = (calibrated(run_dir, cached) for cached in (False, True))
    assert {(entry.num_beams, entry.depth, entry.level) for entry in online.levels} == {
        (width, depth, level) for width in (1, 2, NUM_BEAMS) for level in range(3) for depth in range(level + 1)
    }
    assert online.find(NUM_BEAMS, 0, 0).requests == 20  # type: ignore[union-attr]
    for ours, theirs in zip(online.levels, cached.levels, strict=True):
        assert ours.coverage == pytest.approx(theirs.coverage)
        assert (ours.intercept, ours.slope) == pytest.approx((theirs.intercept, theirs.slope), rel=1e-2, abs=1e-2)


def test_it_comes_after_the_export(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="HuggingFaceExport before it"):
        fit(alignment(False), data(), run_dir, callbacks=[DraftCalibration()])
    with pytest.raises(ValueError, match="num_users"):
        DraftCalibration(num_users=0)
