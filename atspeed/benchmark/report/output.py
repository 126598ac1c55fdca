"""Where a benchmark's result goes: a JSON file, and tables on the terminal and as Markdown."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from atspeed.benchmark.rows import BenchmarkResult, CatalogsResult, ComparisonResult, TuneResult
from atspeed.terminal import show

Result = BenchmarkResult | CatalogsResult | ComparisonResult | TuneResult


def report(result: Result, file: Path, tables: list[Table], others: Sequence[Path] = ()) -> None:
    """Write a result as JSON and its tables as Markdown, with the folders above, then print tables and paths.

    Args:
        result: what was measured.
        file: the JSON file; the Markdown file has its name.
        tables: what to print.
        others: other files that were written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(result), indent=2) + "\n")
    page, environment = file.with_suffix(".md"), result.environment
    versions = ", ".join(f"{package} {environment.versions.get(package)}" for package in ("torch", "transformers"))
    made_with = f"{environment.device}; {versions}; commit {environment.commit}; `{shlex.join(environment.command)}`"
    page.write_text("\n".join([made_with, *map(markdown_of, tables)]) + "\n", encoding="utf-8")
    show(*tables, *(f"written to {path}" for path in (file, page, *others)))


def markdown_of(table: Table) -> str:
    """Return a table of the terminal as Markdown.

    >>> table = Table("method", "K", title="both")
    >>> table.add_row("trie", "20")
    >>> print(markdown_of(table))
    <BLANKLINE>
    ### both
    <BLANKLINE>
    | method | K |
    | --- | --- |
    | trie | 20 |
    """
    cells = [list(column.cells) for column in table.columns]
    header = [str(column.header) for column in table.columns]
    rule = ["--:" if column.justify == "right" else "---" for column in table.columns]
    lines = [header, rule, *zip(*cells, strict=True)]
    return "\n".join(["", f"### {table.title}", "", *(f"| {' | '.join(map(str, line))} |" for line in lines)])
