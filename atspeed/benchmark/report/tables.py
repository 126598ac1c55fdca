"""The benchmark's tables."""

from collections.abc import Iterator
from typing import TypeVar

from rich.table import Table

from atspeed.benchmark.phases import PHASES
from atspeed.benchmark.prediction import SHOWN, PredictionRow, Predictions
from atspeed.benchmark.rows import BenchmarkResult, CoverageRow, MethodRow

COLUMNS = {
    "method": "",
    "verification": "",
    "num_beams": "d",
    "batch_size": "d",
    "latency_ms": ".1f",
    "requests_per_second": ".1f",
    "speedup_vs_hf": ".2f",
    "total_speedup_vs_hf": ".2f",
    "speedup_vs_plain": ".2f",
    "target_calls": ".2f",
    "trie_target_calls": ".2f",
    "draft_calls": ".2f",
    "acceptance_rate": ".2f",
    "identical_to_hf": ".3f",
    "recall": ".4f",
}
TITLES = {
    "verification": "verified",
    "num_beams": "K",
    "batch_size": "batch",
    "latency_ms": "median ms",
    "requests_per_second": "req/s",
    "speedup_vs_hf": "vs hf",
    "total_speedup_vs_hf": "vs hf, total",
    "speedup_vs_plain": "vs plain",
    "target_calls": "target calls",
    "trie_target_calls": "trie needs",
    "draft_calls": "draft calls",
    "acceptance_rate": "acceptance",
    "identical_to_hf": "identical",
}

RowType = TypeVar("RowType", MethodRow, PredictionRow)


def tables_of(result: BenchmarkResult) -> list[Table]:
    """Return tables of the rows, the curves, the share of each phase, predictions, and coverage at each level."""
    environment, setting = result.environment, result.setting
    title = (
        f"{setting.source}, target of {setting.target_parameters / 1e6:.1f} M parameters, "
        f"{result.rows[0].requests} requests, {environment.dtype}, {environment.device}, {environment.threads} threads"
        f"{', hf_generate on the packed weights of the engine' if setting.hf_generate_packed else ''}"
    )
    curves = [_methods("over draft width N, and over temperature T", result.curves)] if result.curves else []
    levels = sorted({row.level for row in result.coverage})
    coverage = [_coverage(level, [row for row in result.coverage if row.level == level]) for level in levels]
    predictions = [_predictions(result.predictions)] if result.predictions.rows else []
    return [_methods(title, result.rows), *curves, _phases(result.rows), *predictions, *coverage]


def _methods(title: str, rows: list[MethodRow]) -> Table:
    table = Table(title=title)
    for name, form in COLUMNS.items():
        table.add_column(TITLES.get(name, name), justify="right" if form else "left")
    for row in _sections(table, rows):
        values = {**vars(row), "latency_ms": row.latency_ms.median}
        table.add_row(*("–" if values[name] is None else format(values[name], form) for name, form in COLUMNS.items()))
    return table


def _phases(rows: list[MethodRow]) -> Table:
    table = Table(title="share of the time of a request: forward passes of the models, and time outside of them")
    for name in ("method", "K", "batch", *PHASES, "outside the models"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in _sections(table, rows):
        if row.phases_ms:
            total = sum(row.phases_ms.values())
            shares = {phase: row.phases_ms[phase] / total for phase in PHASES}
            outside = 1 - shares["target"] - shares["draft"]
            cells = (f"{share:.1%}" for share in (*shares.values(), outside))
            table.add_row(row.method, str(row.num_beams), str(row.batch_size), *cells)
    return table


def _predictions(predictions: Predictions) -> Table:
    price = "nothing" if predictions.call_price is None else f"1/{predictions.call_price:.0f} of a call"
    title = (
        f"time in the target by the sizes of its calls (here a token costs {price}), median error "
        f"{predictions.median_error:.1%}; speedups over plain are predicted from specifications, models only, bfloat16"
    )
    table = Table(title=title)
    for name in (
        "method",
        "K",
        "batch",
        "measured ms",
        "predicted ms",
        "error",
        *(f"{gpu}, predicted" for gpu in SHOWN),
    ):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in _sections(table, predictions.rows):
        table.add_row(
            row.method,
            str(row.num_beams),
            str(row.batch_size),
            f"{row.measured_target_ms:.2f}",
            f"{row.predicted_target_ms:.2f}",
            f"{row.relative_error:+.1%}",
            *(f"{row.predicted_speedup_vs_plain[gpu]:.2f}" for gpu in SHOWN),
        )
    return table


def _coverage(level: int, rows: list[CoverageRow]) -> Table:
    widths = sorted({row.draft_beams for row in rows})
    table = Table(title=f"coverage at level {level} (0: the first code): all K target beams in the draft's best N")
    for name in ("K", *(f"N = {width}" for width in widths)):
        table.add_column(name, justify="right")
    for num_beams in sorted({row.num_beams for row in rows}):
        cells = {row.draft_beams: f"{row.coverage:.2f}" for row in rows if row.num_beams == num_beams}
        table.add_row(str(num_beams), *(cells[width] for width in widths))
    return table


def _sections(table: Table, rows: list[RowType]) -> Iterator[RowType]:
    """Yield the rows one by one, with a line in the table where beam width or batch size changes."""
    previous = None
    for row in rows:
        setting = row.batch_size, row.num_beams
        if previous not in (None, setting):
            table.add_section()
        previous = setting
        yield row
