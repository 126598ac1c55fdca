"""Where a benchmark's result goes: a JSON file, and tables on the terminal."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from atspeed.benchmark.rows import BenchmarkResult, CatalogsResult, ComparisonResult, TuneResult
from atspeed.terminal import show

Result = BenchmarkResult | CatalogsResult | ComparisonResult | TuneResult


def report(result: Result, file: Path, tables: list[Table], others: Sequence[Path] = ()) -> None:
    """Write a result as JSON, with the folders above it, then print its tables and the paths of all files.

    Args:
        result: what was measured.
        file: the JSON file.
        tables: what to print.
        others: other files that were written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result), indent=2) + "\n")
    show(*tables, *(f"written to {path}" for path in (file, *others)))
