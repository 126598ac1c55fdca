"""Side-by-side measurement."""

from atspeed.benchmark.alignment import AlignmentBenchmark
from atspeed.benchmark.benchmark import Benchmark, Method
from atspeed.benchmark.catalogs import CatalogBenchmark
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.tune import Tuner

__all__ = ["AlignmentBenchmark", "Benchmark", "CatalogBenchmark", "HFGenerate", "Method", "Tuner"]
