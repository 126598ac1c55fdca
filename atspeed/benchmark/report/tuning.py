"""What ``tune`` says: a conclusion, a table, and an overlay for ``configs/recommend.yaml``."""

from typing import Any

from omegaconf import OmegaConf
from rich.table import Table

from atspeed.benchmark.rows import TuneResult
from atspeed.decoding import Drafter
from atspeed.decoding.constructor_arguments import constructor_arguments

PLAIN = "plain"
FINAL = "final"


def spec_of(drafter: Drafter) -> dict[str, Any]:
    """Return what a config says of a drafter: its class and all of its settings, so that none of another's remains."""
    return {"class_path": type(drafter).__name__, "init_args": constructor_arguments(drafter)}


def overlay_of(drafter: Drafter, conclusion: str) -> str:
    """Return the YAML of an overlay for ``configs/recommend.yaml``, with a conclusion as its first comment."""
    content = {"model": {"init_args": {"drafter": spec_of(drafter), "verifier": {"class_path": "StrictTopK"}}}}
    return (
        f"# {conclusion}\n"
        "# python -m atspeed test --config configs/recommend.yaml --config <this file> …\n" + OmegaConf.to_yaml(content)
    )


def conclusion_of(result: TuneResult) -> str:
    """Return one sentence: what was chosen, how fast it is, and for which beam width, batch size and device."""
    setting = result.setting
    where = f"K = {setting.num_beams}, batches of {setting.batch_size}, {result.environment.device}"
    chosen = next(row for row in result.rows if (row.round, row.candidate) == (FINAL, result.chosen))
    if result.chosen == PLAIN or chosen.interval is None:
        return f"{result.chosen}: no candidate was certainly faster ({where})"
    low, high = chosen.interval
    return (
        f"{result.chosen}: {chosen.speedup_vs_plain:.2f} times as fast as plain beam search, 95 % interval "
        f"{low:.2f} to {high:.2f} ({where})"
    )


def table_of(result: TuneResult) -> Table:
    """Return the rows of both rounds, the chosen candidate in bold."""
    setting = result.setting
    title = f"{setting.source}, {setting.requests} validation users, strict: time of a batch against plain's"
    table = Table(title=title, caption=f"chosen: {conclusion_of(result)}")
    for name in ("round", "candidate"):
        table.add_column(name)
    for name in ("batches", "median ms", "vs plain", "95 % interval", "target calls", "draft calls"):
        table.add_column(name, justify="right")
    previous = result.rows[0].round
    for row in result.rows:
        if row.round != previous:
            table.add_section()
        previous = row.round
        table.add_row(
            row.round,
            row.candidate,
            str(row.batches),
            f"{row.latency_ms:.1f}",
            f"{row.speedup_vs_plain:.2f}",
            "–" if row.interval is None else "{:.2f} to {:.2f}".format(*row.interval),
            f"{row.target_calls:.2f}",
            f"{row.draft_calls:.2f}",
            style="bold" if (row.round, row.candidate) == (FINAL, result.chosen) else None,
        )
    return table
