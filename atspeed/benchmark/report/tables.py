"""The benchmark's tables."""

from collections.abc import Iterator
from typing import Any, TypeVar

from rich.table import Table

from atspeed.benchmark.method_row import MethodRow
from atspeed.benchmark.phases import PHASES
from atspeed.benchmark.prediction import SHOWN, PredictionRow, Predictions
from atspeed.benchmark.rows import BenchmarkResult, BenchmarkSetting, CoverageRow

COLUMNS = {
    "method": "",
    "verification": "",
    "num_beams": "d",
    "batch_size": "d",
    "execution": "",
    "latency_ms": ".1f",
    "p90_ms": ".1f",
    "device_ms": ".1f",
    "device_p90_ms": ".1f",
    "requests_per_second": ".1f",
    "speedup_vs_hf": ".2f",
    "total_speedup_vs_hf": ".2f",
    "speedup_vs_plain": ".2f",
    "target_calls": ".2f",
    "trie_target_calls": ".2f",
    "draft_calls": ".2f",
    "target_tokens": ".0f",
    "draft_tokens": ".0f",
    "acceptance_rate": ".2f",
    "identical_to_hf": ".3f",
    "overlap_with_plain": ".3f",
    "recall": ".4f",
    "peak_memory_gb": ".2f",
}
ON_A_GPU = ("execution", "device_ms", "device_p90_ms", "peak_memory_gb")
"""Columns that are left out where they say nothing: events and memory on a CPU, executions if all are eager."""
TITLES = {
    "verification": "verified",
    "num_beams": "K",
    "batch_size": "batch",
    "latency_ms": "median ms",
    "p90_ms": "p90 ms",
    "device_ms": "by events",
    "device_p90_ms": "p90 by events",
    "requests_per_second": "req/s",
    "speedup_vs_hf": "vs hf",
    "total_speedup_vs_hf": "vs hf, total",
    "speedup_vs_plain": "vs plain",
    "target_calls": "target calls",
    "trie_target_calls": "trie needs",
    "draft_calls": "draft calls",
    "target_tokens": "target tokens",
    "draft_tokens": "draft tokens",
    "acceptance_rate": "acceptance",
    "identical_to_hf": "identical",
    "overlap_with_plain": "exact items",
    "peak_memory_gb": "peak GB",
}

RowType = TypeVar("RowType", MethodRow, PredictionRow)


def tables_of(result: BenchmarkResult) -> list[Table]:
    """Return the tables: what was measured, what it loses, how it agrees, phases, predictions and coverage."""
    environment, setting = result.environment, result.setting
    title = (
        f"{setting.source}, target of {setting.target_parameters / 1e6:.1f} M parameters, "
        f"{result.rows[0].requests} requests, {environment.dtype}, {environment.device}, {environment.threads} threads"
        f"{', hf_generate on the packed weights of the engine' if setting.hf_generate_packed else ''}"
        f"{''.join(f'; {sentence}' for sentence in sentences_on_growth(setting))}"
    )
    curves = [_methods("over draft width N, epsilon ε and temperature T", result.curves)] if result.curves else []
    lossy = [row for row in [*result.rows, *result.curves] if row.verification in ("bounded", "relaxed")]
    losses = [_losses(lossy)] if lossy else []
    tolerance = setting.tie_tolerance
    agreement = [] if tolerance is None else [_agreement(result.rows, environment.dtype, tolerance)]
    levels = sorted({row.level for row in result.coverage})
    coverage = [_coverage(level, [row for row in result.coverage if row.level == level]) for level in levels]
    predictions = [_predictions(result.predictions)] if result.predictions.rows else []
    phases = [_phases(result.rows)] if any(row.phases_ms for row in result.rows) else []
    floors = [_floors(result)] if any(row.floor for row in result.rows) else []
    return [_methods(title, result.rows), *curves, *losses, *agreement, *floors, *phases, *predictions, *coverage]


def sentences_on_growth(setting: BenchmarkSetting) -> list[str]:
    """Return how the models were made, as far as they were grown from smaller ones."""
    grown = {"target": setting.target_grown, "draft": setting.draft_grown}
    return [f"{name} {made}" for name, made in grown.items() if made]


def _methods(title: str, rows: list[MethodRow]) -> Table:
    table, records = Table(title=title), [_values(row) for row in rows]
    told = {name for name in ON_A_GPU if {values[name] for values in records} - {None, "Eager"}}
    shown = {name: form for name, form in COLUMNS.items() if name in told or name not in ON_A_GPU}
    for name, form in shown.items():
        table.add_column(TITLES.get(name, name), justify="right" if form else "left", no_wrap=name == "method")
    for row in _sections(table, rows):
        values = _values(row)
        table.add_row(*("–" if values[name] is None else format(values[name], form) for name, form in shown.items()))
    return table


def _values(row: MethodRow) -> dict[str, Any]:
    """Return the columns of a row, with those that are part of another one."""
    wall, device = row.latency_ms, row.device_ms
    events = {"device_ms": device and device.median, "device_p90_ms": device and device.p90}
    return {**vars(row), "latency_ms": wall.median, "p90_ms": wall.p90, **events}


def _losses(rows: list[MethodRow]) -> Table:
    title = "bounded and relaxed verification: what they keep of the exact answers (± 95 %, differences user by user)"
    table = Table(title=title)
    for name in ("method", "K", "batch", "target calls", "vs plain", "exact items", "certainly exact"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name in ("recall", "recall less exact", "NDCG", "NDCG less exact"):
        table.add_column(name, justify="right")
    for row in _sections(table, rows):
        table.add_row(
            row.method,
            str(row.num_beams),
            str(row.batch_size),
            "–" if row.target_calls is None else f"{row.target_calls:.2f}",
            f"{row.speedup_vs_plain:.2f}",
            f"{row.overlap_with_plain:.3f}",
            "–" if row.exact_share is None else f"{row.exact_share:.3f}",
            _interval(row.recall, row.recall_error and 1.96 * row.recall_error),
            _interval(row.recall_difference, row.recall_difference_interval, "+"),
            _interval(row.ndcg, row.ndcg_error and 1.96 * row.ndcg_error),
            _interval(row.ndcg_difference, row.ndcg_difference_interval, "+"),
        )
    return table


def _interval(value: float, half: float | None, sign: str = "") -> str:
    return f"{value:{sign}.4f}" + (f" ± {half:.4f}" if half is not None else "")


def _agreement(rows: list[MethodRow], dtype: str, tolerance: float) -> Table:
    title = (
        f"agreement with hf_generate in {dtype}, where rounding may swap what scores nearly the same; near-ties are "
        f"differences that the observed noise explains, changes of scores by {tolerance:g} at most"
    )
    table = Table(title=title)
    for name in ("method", "K", "batch", "identical", "items in common", "differ", "by near-ties only"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name in ("noise", "max score gap", "illegal", "duplicates"):
        table.add_column(name, justify="right")
    for row in _sections(table, [row for row in rows if row.drafter]):
        compared = row.identical_to_hf is not None
        table.add_row(
            row.method,
            str(row.num_beams),
            str(row.batch_size),
            f"{row.identical_to_hf:.3f}" if compared else "–",
            f"{row.overlap_with_hf:.4f}",
            str(num_differing(row)) if compared else "–",
            str(row.near_ties) if compared else "–",
            "–" if row.rounding_noise is None else f"{row.rounding_noise:.3g}",
            "–" if row.max_score_gap is None else f"{row.max_score_gap:.3f}",
            f"{row.illegal_rate:g}",
            f"{row.duplicate_rate:g}",
        )
    return table


def num_differing(row: MethodRow) -> int:
    """Return how many answers of a method that is compared are not those of ``transformers.generate``."""
    return round((1 - (row.identical_to_hf or 0)) * row.requests)


def _floors(result: BenchmarkResult) -> Table:
    title = (
        f"a batch beside its floor, in ms: one read of the weights a call at {(result.copy_gb_per_second or 0):.0f} "
        "GB/s, and the bare forward passes over the same tokens"
    )
    table = Table(title=title)
    on_gpu = any(row.kernel_ms for row in result.rows)
    captured = any(row.capture_seconds for row in result.rows)
    for name in ("method", "K", "batch", "measured", "weights", "bare target", "bare draft"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name in ("× bare target", "target", "draft", "engine", *["idle"] * on_gpu, *["capture s"] * captured):
        table.add_column(name, justify="right")
    for row in _sections(table, result.rows):
        if row.floor is None:
            continue
        floor, total = row.floor, row.floor.latency_ms
        idle = "–" if row.kernel_ms is None else f"{1 - row.kernel_ms / total:.1%}"
        table.add_row(
            row.method,
            str(row.num_beams),
            str(row.batch_size),
            *(f"{value:.2f}" for value in (total, floor.weights_ms, floor.target_ms, floor.draft_ms)),
            f"{total / floor.target_ms:.2f}",
            *(f"{share:.1%}" for share in (floor.target_ms / total, floor.draft_ms / total, floor.engine_share)),
            *[idle] * on_gpu,
            *["–" if row.capture_seconds is None else f"{row.capture_seconds:.1f}"] * captured,
        )
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
