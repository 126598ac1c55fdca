"""The color of a method, the same in all figures, and the points of a curve."""

from operator import attrgetter

from atspeed.benchmark.method_row import MethodRow
from atspeed.benchmark.rows import BenchmarkResult

COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22"]
BASELINES = {"plain": "black", "hf_generate": "0.55"}


def method_colors(result: BenchmarkResult) -> dict[str, str]:
    """Return the color of each method, the same in all figures."""
    methods = list(dict.fromkeys(row.method for row in result.rows))
    others = [method for method in methods if method not in BASELINES]
    return {**BASELINES, **{method: COLORS[index % len(COLORS)] for index, method in enumerate(others)}}


def color_like(result: BenchmarkResult, point: MethodRow) -> str:
    """Return the color of the method that a point of a curve is a variant of; one of the last if there is none."""
    kind = point.drafter, point.verification
    alike = [row.method for row in result.rows if (row.drafter, row.verification) == kind]
    return method_colors(result)[alike[0]] if alike else COLORS[-2 if point.verification == "bounded" else -1]


def curve_of(result: BenchmarkResult, verification: str, sort_by: str) -> list[MethodRow]:
    """Return the points of a curve in the order of what it is over."""
    return sorted((row for row in result.curves if row.verification == verification), key=attrgetter(sort_by))
