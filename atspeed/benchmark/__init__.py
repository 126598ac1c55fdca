"""Side-by-side measurement."""

from atspeed.benchmark.benchmark import Benchmark, Method
from atspeed.benchmark.catalogs import CatalogBenchmark
from atspeed.benchmark.reference import HFGenerate

__all__ = ["Benchmark", "CatalogBenchmark", "HFGenerate", "Method"]
