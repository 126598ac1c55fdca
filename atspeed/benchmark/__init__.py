"""Side-by-side measurement."""

from atspeed.benchmark.benchmark import Benchmark
from atspeed.benchmark.reference import HFGenerate

__all__ = ["Benchmark", "HFGenerate"]
