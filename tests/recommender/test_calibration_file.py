import logging
from pathlib import Path

import pytest

from atspeed.catalog import CompactVocabulary, Vocabulary
from atspeed.data import EmbeddedCatalog
from atspeed.decoding.drafters.calibration import kept_calibration
from atspeed.models import Exported, Grown, NewModel, export, model_folder
from atspeed.recommender.calibration_file import load_calibration, save_calibration
from tests.decoding.priced import calibration_of
from tests.modules.tiny import TINY

CALIBRATION = calibration_of(3, 3)


@pytest.fixture
def vocabulary() -> Vocabulary:
    return CompactVocabulary(EmbeddedCatalog(num_users=4, num_items=140).load().catalog.words)


@pytest.fixture
def run_dir(tmp_path: Path, vocabulary: Vocabulary) -> Path:
    for seed, stage in enumerate(("target", "draft")):
        export(NewModel("llama", TINY, seed).build(vocabulary, tmp_path), vocabulary, model_folder(tmp_path, stage))
    return tmp_path


def loaded(source: Exported | Grown, target: Exported | Grown, run_dir: Path, vocabulary: Vocabulary):  # type: ignore[no-untyped-def]
    model = source.build(vocabulary, run_dir)
    load_calibration(model, source, target, run_dir)
    return kept_calibration(model)


def test_it_lies_beside_the_draft_and_counts_for_larger_shapes(run_dir: Path, vocabulary: Vocabulary) -> None:
    draft, target = Exported("draft"), Exported("target")
    assert loaded(draft, target, run_dir, vocabulary) is None
    file = save_calibration(CALIBRATION, draft, target, run_dir)
    assert file == run_dir / "draft" / "model" / "calibration.json"
    for a_draft in (draft, Grown(draft, hidden_size=2 * TINY["hidden_size"])):
        for a_target in (target, Grown(target, hidden_size=2 * TINY["hidden_size"], dtype="bfloat16")):
            assert loaded(a_draft, a_target, run_dir, vocabulary) == CALIBRATION


def test_another_target_is_said_and_not_used(
    run_dir: Path, vocabulary: Vocabulary, caplog: pytest.LogCaptureFixture
) -> None:
    save_calibration(CALIBRATION, Exported("draft"), Exported("target"), run_dir)
    model = NewModel("llama", TINY, 7).build(vocabulary, run_dir)
    export(model, vocabulary, model_folder(run_dir, "target"))
    with caplog.at_level(logging.WARNING):
        assert loaded(Exported("draft"), Exported("target"), run_dir, vocabulary) is None
    assert "another target" in caplog.text
    assert "atspeed tune" in caplog.text


def test_a_new_model_has_no_folder_to_write_to(run_dir: Path) -> None:
    assert save_calibration(CALIBRATION, NewModel("llama", TINY), Exported("target"), run_dir) is None
