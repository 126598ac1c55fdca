"""Lightning callbacks."""

from callbacks.export import HuggingFaceExport
from callbacks.predictions import PredictionWriter
from callbacks.speedup import SpeedupMonitor
from callbacks.throughput import TokenThroughput

__all__ = ["HuggingFaceExport", "PredictionWriter", "SpeedupMonitor", "TokenThroughput"]
