"""The benchmark's table."""

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = {
    "method": "",
    "num_beams": "d",
    "latency_ms": ".1f",
    "speedup_vs_hf": ".2f",
    "speedup_vs_plain": ".2f",
    "target_calls": ".2f",
    "accepted_levels": ".2f",
    "acceptance_rate": ".2f",
    "identical_to_hf": ".3f",
    "max_score_gap": ".1e",
    "recall": ".4f",
    "ndcg": ".4f",
}
TITLES = {"num_beams": "K", "latency_ms": "median ms"}


def print_table(result: dict[str, Any]) -> None:
    """Print the rows of a ``benchmark.json``."""
    environment, setting = result["environment"], result["setting"]
    table = Table(
        title=f"{setting['source']}, target of {setting['target_parameters'] / 1e6:.1f} M parameters, "
        f"{setting['requests']} requests, {environment['dtype']}, {environment['device']}, "
        f"{environment['threads']} threads"
    )
    for name in COLUMNS:
        table.add_column(TITLES.get(name, name.replace("_", " ")), justify="left" if name == "method" else "right")
    previous = None
    for row in result["rows"]:
        if previous not in (None, row["num_beams"]):
            table.add_section()
        previous = row["num_beams"]
        values = {**row, "latency_ms": row["latency_ms"]["median"]}
        table.add_row(*("–" if values[name] is None else format(values[name], form) for name, form in COLUMNS.items()))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a log has no width to fit into
    console.print(table)
