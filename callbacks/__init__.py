"""Lightning callbacks."""

from callbacks.export import HuggingFaceExport
from callbacks.losses import LossParts
from callbacks.predictions import PredictionWriter
from callbacks.provenance import RunProvenance
from callbacks.speculation import SpeculationMonitor
from callbacks.speedup import SpeedupMonitor
from callbacks.throughput import TokenThroughput

__all__ = [
    "HuggingFaceExport",
    "LossParts",
    "PredictionWriter",
    "RunProvenance",
    "SpeculationMonitor",
    "SpeedupMonitor",
    "TokenThroughput",
]
