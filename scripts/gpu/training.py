"""What ``training.sh`` runs: a command of the package with its memory measured, models of a large shape, and the table.

- ``python -m scripts.gpu.training measure FILE JOB STRATEGY TARGET -- COMMAND …`` runs a command of ``atspeed`` in this
  process and writes what it took to FILE, also where it fails.
- ``python -m scripts.gpu.training grow RUN SMALL SHAPE`` writes models of a shape, grown from small ones.
- ``python -m scripts.gpu.training table OUT`` writes ``training.json`` and ``training.md`` from all such files.
"""

import contextlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from atspeed.catalog import CompactVocabulary
from atspeed.cli.main import main as atspeed
from atspeed.models import Checkpoint, Grown, export
from atspeed.models.lora import add_adapters
from scripts.gpu.measuring import table, write_results
from scripts.memory import STRATEGIES, Parameters, gpu_bytes, on_meta

Shape = dict[str, int]
LLAMA_7B: Shape = {
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
LLAMA_68M: Shape = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
}
SHAPES: dict[str, dict[str, Shape]] = {
    "7b": {"target": LLAMA_7B, "draft": LLAMA_68M},
    "7b-24-layers": {"target": {**LLAMA_7B, "num_hidden_layers": 24}},
    "7b-12-layers": {"target": {**LLAMA_7B, "num_hidden_layers": 12}},
    "tiny": {"target": {"hidden_size": 64, "num_attention_heads": 4}, "draft": {"num_hidden_layers": 2}},
}
"""By stage; the names are those of a configuration of transformers."""
ADAPTERS = {"rank": 16, "scale": 32.0, "dropout": 0.05, "target_modules": "all-linear"}
"""As the ``lora`` overlay has them."""
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class MemoryRow:
    """What a command took.

    Attributes:
        job: what it did.
        strategy: the overlay.
        model: the target's parameters, in billions.
        computed_gb: on the GPU for weights, gradients and optimizer states, as docs/memory.md computes it; None for a
            command that does not train.
        allocated_gb: most that torch had allocated on the GPU; None on a CPU.
        reserved_gb: most that it had reserved.
        device_gb: most that was in use on the GPU, as nvidia-smi shows it, CUDA's own included.
        cpu_gb: most memory of the process.
        seconds: of the command, with loading and writing models.
        error: why it failed; None if it did not.
    """

    job: str
    strategy: str
    model: float
    computed_gb: float | None
    allocated_gb: float | None
    reserved_gb: float | None
    device_gb: float | None
    cpu_gb: float
    seconds: float
    error: str | None


@contextlib.contextmanager
def watched_gpu() -> Iterator[list[int]]:
    """Look at the GPU from time to time; yields the list of bytes in use there, which grows."""
    used, stop = [0], threading.Event()

    def look() -> None:
        while not stop.wait(SAMPLE_SECONDS):
            if torch.cuda.is_initialized():  # not before the command has made its processes
                free, total = torch.cuda.mem_get_info()
                used.append(total - free)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        stop.set()
        thread.join()


def measure(file: Path, job: str, strategy: str, target: Path, command: list[str]) -> None:
    """Run a command, and write what it took; its errors are raised again."""
    start, error, cuda = time.perf_counter(), None, torch.cuda.is_available()
    parameters = parameters_of(job, target)
    with watched_gpu() as used:
        try:
            atspeed(command)
        except BaseException as failure:
            error = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"
            raise
        finally:
            row = MemoryRow(
                job=job,
                strategy=strategy,
                model=Parameters.of(on_meta(AutoConfig.from_pretrained(target))).trained / 1e9,
                computed_gb=gpu_bytes(parameters, strategy, 1) / 1e9 if parameters.trained else None,
                allocated_gb=torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
                reserved_gb=torch.cuda.max_memory_reserved() / 1e9 if cuda else None,
                device_gb=max(used) / 1e9 if cuda else None,
                cpu_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
                seconds=time.perf_counter() - start,
                error=error,
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(row)) + "\n")


def parameters_of(job: str, target: Path) -> Parameters:
    """Return the trained and frozen parameters of a job, from the configurations of its models.

    Args:
        job: as the table names it.
        target: folder of the target; the draft's is beside it.
    """
    model = on_meta(AutoConfig.from_pretrained(target))
    whole = Parameters.of(model)
    if job == "target cache":
        return Parameters(0, whole.trained)
    if job == "fine-tuning the target":
        return whole
    if job == "fine-tuning it with LoRA, rank 16":
        add_adapters(model, **ADAPTERS)
        return Parameters.of(model)
    draft = Parameters.of(on_meta(AutoConfig.from_pretrained(target.parents[1] / "draft" / "model"))).trained
    return Parameters(draft, whole.trained if job == "alignment, target online" else 0)


def grow(run_dir: Path, small: Path, shape: str) -> None:
    """Write the models of a shape, ``<run>/<stage>/model``, grown from those of another run folder, in bfloat16."""
    for stage, sizes in SHAPES[shape].items():
        vocabulary = CompactVocabulary.load(small / stage / "model")
        source = Grown(Checkpoint(small / stage / "model"), **sizes, dtype="bfloat16")  # type: ignore[arg-type]
        export(source.build(vocabulary, run_dir), vocabulary, run_dir / stage / "model")


def write_table(out: Path) -> None:
    """Write the table of all measured commands."""
    rows = [MemoryRow(**json.loads(file.read_text())) for file in sorted(out.glob("memory-*.json"))]
    header = ("job", "overlay", "target, 10⁹ weights", "computed GB", "allocated GB", "reserved GB", "device GB")
    header = (*header, "CPU GB", "seconds", "error")
    notes = (
        "Computed: weights, gradients and optimizer states, as docs/memory.md says; without activations, buffers and "
        "CUDA itself, which the measured values have.",
        "Not computed either: on a GPU torch's AdamW takes 4 more bytes per trained parameter for a moment in a step.",
        "Allocated and reserved: torch's peaks. Device: the most in use on the GPU, as nvidia-smi shows it. CPU: the "
        "process's peak.",
        "One process, five steps (the target cache: all requests), generated data (EmbeddedCatalog).",
    )
    cells = [tuple(asdict(row).values()) for row in rows]
    write_results(out, "training", "Memory of training, measured", notes, rows, table(header, cells))


def main(arguments: list[str]) -> None:
    """Run what the module's docstring says."""
    match arguments:
        case ["measure", file, job, strategy, target, "--", *command] if strategy in STRATEGIES:
            sys.path.insert(0, os.getcwd())  # a config may name classes of the working directory
            measure(Path(file), job, strategy, Path(target), command)
        case ["grow", run_dir, small, shape] if shape in SHAPES:
            grow(Path(run_dir), Path(small), shape)
        case ["table", out]:
            write_table(Path(out))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
