"""The benchmarks' tables and files."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from atspeed.benchmark.phases import PHASES

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


def tables_of(result: dict[str, Any]) -> list[Table]:
    """Return the rows of a ``benchmark.json``, the share of each phase, and the curves."""
    environment, setting = result["environment"], result["setting"]
    title = (
        f"{setting['source']}, target of {setting['target_parameters'] / 1e6:.1f} M parameters, "
        f"{result['rows'][0]['requests']} requests, {environment['dtype']}, {environment['device']}, "
        f"{environment['threads']} threads"
    )
    curves = [_methods("over draft width N, and over temperature T", result["curves"])] if result["curves"] else []
    return [_methods(title, result["rows"]), *curves, _phases(result), *_coverage(result)]


def report(result: dict[str, Any], file: Path, tables: list[Table], others: Sequence[Path] = ()) -> None:
    """Write a result as JSON, with the folders above it, then print its tables and where it and other files are."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n")
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a log has no width to fit into
    console.print(*tables, *(f"written to {path}" for path in (file, *others)), sep="\n")


def _methods(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    for name, form in COLUMNS.items():
        table.add_column(TITLES.get(name, name), justify="right" if form else "left")
    for row in _sections(table, rows):
        values = {**row, "latency_ms": row["latency_ms"]["median"]}
        table.add_row(*("–" if values[name] is None else format(values[name], form) for name, form in COLUMNS.items()))
    return table


def _phases(result: dict[str, Any]) -> Table:
    table = Table(title="share of a request's time: forward passes of the models, and what is spent outside of them")
    for name in ("method", "K", "batch", *PHASES, "outside the models"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in _sections(table, [row for row in result["rows"] if row["phases_ms"]]):
        total = sum(row["phases_ms"].values())
        shares = {phase: row["phases_ms"][phase] / total for phase in PHASES}
        outside = 1 - shares["target"] - shares["draft"]
        cells = (f"{share:.1%}" for share in (*shares.values(), outside))
        table.add_row(row["method"], str(row["num_beams"]), str(row["batch_size"]), *cells)
    return table


def _coverage(result: dict[str, Any]) -> list[Table]:
    rows = result["coverage"]
    tables = []
    for level in sorted({row["level"] for row in rows}):
        widths = sorted({row["draft_beams"] for row in rows})
        table = Table(title=f"coverage of prefixes of {level} codes: all K target beams in the draft's best N")
        for name in ("K", *(f"N = {width}" for width in widths)):
            table.add_column(name, justify="right")
        for num_beams in sorted({row["num_beams"] for row in rows}):
            cells = {
                row["draft_beams"]: f"{row['coverage']:.2f}"
                for row in rows
                if (row["level"], row["num_beams"]) == (level, num_beams)
            }
            table.add_row(str(num_beams), *(cells[width] for width in widths))
        tables.append(table)
    return tables


def _sections(table: Table, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows one by one, with a line in the table where beam width or batch size changes."""
    previous = None
    for row in rows:
        setting = row["batch_size"], row["num_beams"]
        if previous not in (None, setting):
            table.add_section()
        previous = setting
        yield row
