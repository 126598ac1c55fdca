"""A draft's calibration as a file of its model folder, which counts only for the target that it was made with."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from atspeed.decoding.drafters.calibration import Calibration, keep_calibration
from atspeed.files import write_atomically
from atspeed.models import ModelSource

log = logging.getLogger(__name__)

FILE = "calibration.json"


def save_calibration(calibration: Calibration, draft: ModelSource, target: ModelSource, run_dir: Path) -> Path | None:
    """Write a calibration into the folder that the draft came from, and return its file; None if there is none.

    A draft or a target with the same function in another shape or dtype (``Grown``) has the same calibration.

    Args:
        calibration: of the draft.
        draft: source of the draft.
        target: source of the target.
        run_dir: the run folder.
    """
    origin = draft.origin(run_dir)
    if origin is None:
        return None
    record = {"target": _fingerprint(target, run_dir), "levels": calibration.to_json()}
    file = origin.path / FILE
    write_atomically(file, lambda partial: partial.write_text(json.dumps(record, indent=2) + "\n"))
    return file


def load_calibration(
    model: PreTrainedModel | None, draft: ModelSource | None, target: ModelSource, run_dir: Path
) -> None:
    """Keep a draft's calibration on its model, if it has one for the target; say so if it is for another one.

    Args:
        model: the draft, if there is one.
        draft: its source.
        target: source of the target.
        run_dir: the run folder.
    """
    if model is None or draft is None:
        return
    record = _read(draft, target, run_dir)
    if record is not None:
        keep_calibration(model, Calibration.from_json(record["levels"]))


def read_calibration(folder: Path) -> Calibration | None:
    """Return the calibration in a draft's folder, whichever target it was made with; None if there is none."""
    file = folder / FILE
    return Calibration.from_json(json.loads(file.read_text())["levels"]) if file.is_file() else None


def copy_calibration(
    draft: ModelSource, target: ModelSource, run_dir: Path, copied_draft: ModelSource, copied_target: ModelSource
) -> None:
    """Write a draft's calibration, if it has one for the target, for copies of both models."""
    record = _read(draft, target, run_dir)
    if record is not None:
        save_calibration(Calibration.from_json(record["levels"]), copied_draft, copied_target, run_dir)


def _read(draft: ModelSource, target: ModelSource, run_dir: Path) -> dict[str, Any] | None:
    """Return the content of a draft's calibration file for a target, if there is one."""
    origin = draft.origin(run_dir)
    if origin is None or not (file := origin.path / FILE).is_file():
        return None
    record: dict[str, Any] = json.loads(file.read_text())
    if record["target"] != _fingerprint(target, run_dir):
        log.warning("%s was made with another target, and is not used; python -m atspeed tune makes a new one", file)
        return None
    return record


def _fingerprint(target: ModelSource, run_dir: Path) -> str:
    return (target.origin(run_dir) or target).fingerprint(run_dir)
