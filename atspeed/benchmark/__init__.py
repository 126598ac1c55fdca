"""Side-by-side measurement."""

from atspeed.benchmark.benchmark import Benchmark
from atspeed.benchmark.catalogs import CatalogBenchmark
from atspeed.benchmark.draft_comparison import AlignmentBenchmark
from atspeed.benchmark.method import Method
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.tuner import Tuner

__all__ = ["AlignmentBenchmark", "Benchmark", "CatalogBenchmark", "HFGenerate", "Method", "Tuner"]
