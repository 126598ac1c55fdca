"""Lightning callbacks, imported as ``atspeed.callbacks``."""

if __name__ != "atspeed.callbacks":  # every class would exist twice, and isinstance would tell them apart
    raise ImportError(f"import atspeed.callbacks, not {__name__}: the folder is part of the package atspeed")

from atspeed.callbacks.draft_calibration import DraftCalibration
from atspeed.callbacks.epoch_lines import EpochLines
from atspeed.callbacks.hugging_face_export import HuggingFaceExport
from atspeed.callbacks.loss_parts import LossParts
from atspeed.callbacks.prediction_writer import PredictionWriter
from atspeed.callbacks.run_provenance import RunProvenance
from atspeed.callbacks.speculation_monitor import SpeculationMonitor
from atspeed.callbacks.speedup_monitor import SpeedupMonitor
from atspeed.callbacks.token_throughput import TokenThroughput

__all__ = [
    "DraftCalibration",
    "EpochLines",
    "HuggingFaceExport",
    "LossParts",
    "PredictionWriter",
    "RunProvenance",
    "SpeculationMonitor",
    "SpeedupMonitor",
    "TokenThroughput",
]
