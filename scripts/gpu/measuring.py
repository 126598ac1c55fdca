"""What the scripts beside share: timing, models with random weights, and results as JSON and a Markdown table."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from atspeed.decoding.cuda_graphs import captured_graph
from atspeed.provenance import provenance

WARM_UPS = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of a call.

    Attributes:
        median: by CUDA events, before the call and behind its last kernel; on a CPU wall time.
        p90: nine of ten calls take at most so long.
        wall: median wall time, until the device has finished.
        repeats: how many calls were timed.
    """

    median: float
    p90: float
    wall: float
    repeats: int


def default_device() -> torch.device:
    """Return the GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def take_times(run: Callable[[], object], repeats: int = 20, seconds: float = 3.0) -> Times:
    """Time a call again and again, after some that warm up.

    Args:
        run: the call; it need not wait for the device.
        repeats: most calls to time.
        seconds: no further one is started after so long.
    """
    for _ in range(WARM_UPS):
        run()
    wall, device = [], []
    end = time.perf_counter() + seconds
    while len(wall) < repeats and (not wall or time.perf_counter() < end):
        if torch.cuda.is_available():
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start = time.perf_counter()
            first.record()
            run()
            last.record()
            torch.cuda.synchronize()
            device.append(first.elapsed_time(last))
        else:
            start = time.perf_counter()
            run()
        wall.append(1000 * (time.perf_counter() - start))
    timed = device or wall
    return Times(statistics.median(timed), float(np.quantile(timed, 0.9)), statistics.median(wall), len(wall))


def as_graph(run: Callable[[], object]) -> Callable[[], object]:
    """Return what replays a call as one CUDA graph; on a CPU the call itself.

    Args:
        run: the call; it may ask nothing of the device.
    """
    if not torch.cuda.is_available():
        return run
    return captured_graph(run).replay


def peak_gb(run: Callable[[], object]) -> float | None:
    """Return the most memory that a call takes on the GPU beside what is allocated already, in GB; None on a CPU."""
    if not torch.cuda.is_available():
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def random_model(config: PreTrainedConfig, device: torch.device) -> PreTrainedModel:
    """Return a model with random weights, made on the device, in bfloat16."""
    torch.manual_seed(0)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; floats get three digits or more, None a dash."""
    lines = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def write_results(folder: Path, name: str, title: str, notes: Sequence[str], rows: Sequence[Any], text: str) -> None:
    """Write ``name.json`` and ``name.md``; called after every row, so that an interrupted script leaves what it has.

    Args:
        folder: where; it is made if need be.
        name: of the files.
        title: of the table.
        notes: what has to be known to read it, a line each.
        rows: dataclasses, for the JSON.
        text: the table, in Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = provenance(default_device())
    content = {"provenance": record, "notes": list(notes), "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    versions = ", ".join(f"{package} {record['versions'][package]}" for package in ("torch", "transformers"))
    made_with = f"{record['device']}; {versions}; commit {record['commit']}; `{' '.join(record['command'])}`"
    lines = "\n".join(f"- {note}" for note in notes)
    (folder / f"{name}.md").write_text(f"## {title}\n\n{made_with}\n\n{text}\n{lines}\n")
