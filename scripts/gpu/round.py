"""Takes a round of captured speculation apart on one GPU: beside a bare target forward pass, and what is left between.

Usage, with the folder that ``pack_inputs.py`` made; ten minutes at most each::

    python -m scripts.gpu.round --inputs inputs --out results              # round.json, round.md
    python -m scripts.gpu.round --inputs inputs --out results --compile    # compiled.json, compiled.md

The first compares each captured method of configs/benchmark-7b.yaml with the model alone, and replays rounds with an
error for whatever waits for the GPU. The second compares a forward pass as it is launched, captured by atspeed,
compiled and then captured by atspeed, and compiled with ``mode="reduce-overhead"``. ``--tiny`` runs all of it on a CPU.
No GPU has run it yet.
"""

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from atspeed.benchmark import Benchmark
from atspeed.benchmark.benchmark import Loaded
from atspeed.benchmark.kernel_time import kernel_seconds
from atspeed.benchmark.timing import take_time
from atspeed.cli.parser import PARSER_SETTINGS, Parser, add_config_option
from atspeed.data import RecommendationData, RequestBatch
from atspeed.decoding import Captured
from atspeed.decoding.cost import CallShape
from atspeed.decoding.cost.bare_calls import BareCall
from atspeed.decoding.execution.captured_search import CapturedSearch
from scripts.gpu.benchmark_7b import options_for, run_dir_of
from scripts.gpu.measuring import as_graph, table, take_times, write_results

CONTEXT = 64
NOTES = (
    "round: a batch's time by CUDA events (on a CPU: wall time) over its rounds, the median of the batches",
    "bare: the target's forward pass by itself, replayed as a CUDA graph, over the same tokens after the same slots; "
    "bare draft: all calls of the draft in a round",
    "idle: share of a batch's wall time in which the GPU ran no kernel, which is the host's",
    "operations: outside the models, mean of the rounds",
)


@dataclass(frozen=True)
class RoundRow:
    """A captured method beside the bare models; times in ms.

    Attributes:
        method: its name.
        num_beams: K.
        batch_size: B.
        rounds: of a batch, a mean.
        round_ms: see :data:`NOTES`.
        bare_ms: a bare forward pass of the target.
        ratio: of the two.
        bare_draft_ms: bare forward passes of the draft, per round.
        idle: see :data:`NOTES`; None on a CPU.
        operations: per round, outside the models.
        capture_seconds: of all shapes.
    """

    method: str
    num_beams: int
    batch_size: int
    rounds: float
    round_ms: float
    bare_ms: float
    ratio: float
    bare_draft_ms: float
    idle: float | None
    operations: float
    capture_seconds: float


@dataclass(frozen=True)
class CompiledRow:
    """A forward pass of the target in several ways; median ms.

    Attributes:
        tokens: new tokens.
        context: slots of the cache.
        launched: as it is.
        captured: as a CUDA graph.
        compiled: by ``torch.compile``, then captured.
        reduce_overhead: by ``torch.compile(mode="reduce-overhead")``, which captures by itself.
    """

    tokens: int
    context: int
    launched: float
    captured: float
    compiled: float
    reduce_overhead: float


def load(options: list[str]) -> tuple[Benchmark, RecommendationData]:
    """Return what a command line of ``python -m atspeed benchmark`` describes."""
    parser = Parser(**PARSER_SETTINGS)
    add_config_option(parser, "a YAML file")
    parser.add_class_arguments(Benchmark, None)
    parser.add_class_arguments(RecommendationData, "data")
    objects = parser.instantiate(parser.parse_args(options)).as_dict()
    data = objects.pop("data")
    del objects["config"]
    data.num_test_users = objects["num_requests"]
    data.setup("test")
    return Benchmark(**objects), data


@contextmanager
def waiting_refused() -> Iterator[None]:
    """Make whatever waits for the GPU inside a replayed round an error."""
    replay = CapturedSearch._replay

    def checked(search: CapturedSearch, *args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return replay(search, *args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    if torch.cuda.is_available():
        CapturedSearch._replay = checked  # type: ignore[method-assign]
    try:
        yield
    finally:
        CapturedSearch._replay = replay  # type: ignore[method-assign]


def measure_round(loaded: Loaded, name: str, num_beams: int, batches: list[RequestBatch]) -> RoundRow:
    """Return the row of a method."""
    compared, device = loaded.compared, loaded.compared.target.device
    execution, meter = compared.methods[name].execution, compared.floor_meter
    assert isinstance(execution, Captured)
    assert meter is not None

    def answer(batch: RequestBatch) -> Any:
        return compared.decoders[name](**batch.decoder_inputs, num_beams=num_beams)

    for batch in batches:  # captures what comes
        answer(batch)
    with waiting_refused():
        for batch in batches:
            answer(batch)
    rounds, seconds, ratios, bare, bare_draft, idle = [], [], [], [], [], []
    for batch in batches:
        took, decoded = take_time(answer, batch, device)
        calls = len(decoded.target_shapes)
        target = sum(map(meter.target_calls, decoded.target_shapes))
        draft = sum(map(meter.draft_calls, decoded.draft_shapes)) if meter.draft_calls else 0.0
        total = took.device_seconds or took.seconds
        rounds.append(calls)
        seconds.append(total / calls)
        bare.append(target / calls)
        bare_draft.append(draft / calls)
        ratios.append(total / target)
        if device.type == "cuda":
            idle.append(1 - kernel_seconds(partial(answer, batch), device) / took.seconds)
    operations = [count for capture in execution.captures for count in capture.operations]
    row = RoundRow(
        method=name,
        num_beams=num_beams,
        batch_size=len(batches[0].users),
        rounds=statistics.mean(rounds),
        round_ms=1000 * statistics.median(seconds),
        bare_ms=1000 * statistics.median(bare),
        ratio=statistics.median(ratios),
        bare_draft_ms=1000 * statistics.median(bare_draft),
        idle=statistics.median(idle) if idle else None,
        operations=statistics.mean(operations),
        capture_seconds=sum(capture.seconds for capture in execution.captures),
    )
    execution.release()
    return row


def measure_compiled(model: PreTrainedModel, shape: CallShape, backend: str) -> CompiledRow:
    """Return the row of a shape; ``backend`` is that of ``torch.compile``."""
    call = BareCall(model, shape)
    launched = take_times(call).median
    captured = take_times(as_graph(call)).median
    forward = model.forward
    times = []
    for mode in (None, "reduce-overhead"):
        torch.compiler.reset()
        settings = {"mode": mode} if backend == "inductor" else {}
        compiled = torch.compile(forward, backend=backend, dynamic=False, **settings)
        model.forward = compiled  # type: ignore[method-assign]
        call = BareCall(model, shape)
        times.append(take_times(as_graph(call) if mode is None else call).median)
    model.forward = forward  # type: ignore[method-assign]
    return CompiledRow(shape.tokens, shape.context, launched, captured, *times)


def main() -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="the folder of pack_inputs.py")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--batch-size", type=int, default=1, help="requests decoded together (default: %(default)s)")
    parser.add_argument("--num-beams", type=int, default=20, help="beam width K (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compare ways to run a forward pass instead")
    parser.add_argument("--tiny", action="store_true", help="tiny models on a CPU")
    options = parser.parse_args()
    run_dir = run_dir_of(options.inputs, options.out)
    benchmark, data = load(options_for(options.batch_size, [options.num_beams], options.inputs, run_dir, options.tiny))
    loaded = benchmark.load(data)
    grown = f"target grown from {loaded.setting.target_grown}; draft grown from {loaded.setting.draft_grown}"
    if options.compile:
        compare_compiled(loaded, options.num_beams, "eager" if options.tiny else "inductor", options.out, grown)
    else:
        batches = data.batches_by_length(data.test_requests(), options.batch_size, benchmark.device)
        compare_rounds(loaded, options.num_beams, batches, options.out, grown)


def compare_rounds(loaded: Loaded, num_beams: int, batches: list[RequestBatch], out: Path, grown: str) -> None:
    """Write the table of rounds."""
    header = ("method", "K", "batch", "rounds", "round", "bare", "round / bare", "bare draft")
    header = (*header, "idle", "operations", "capture s")
    rows: list[RoundRow] = []
    for name, method in loaded.compared.methods.items():
        if isinstance(method.execution, Captured):
            rows.append(measure_round(loaded, name, num_beams, batches))
            text = table(header, [astuple(row) for row in rows])
            write_results(out, "round", "A round beside a bare forward pass, ms", [*NOTES, grown], rows, text)
    print(text)


def compare_compiled(loaded: Loaded, num_beams: int, backend: str, out: Path, grown: str) -> None:
    """Write the table of forward passes."""
    rows: list[CompiledRow] = []
    for tokens in (num_beams, 256):
        rows.append(measure_compiled(loaded.compared.target, CallShape(tokens, 1, CONTEXT), backend))
        header = ("tokens", "slots before", "launched", "captured", "compiled, captured", "reduce-overhead")
        text = table(header, [astuple(row) for row in rows])
        notes = [f"torch.compile with the backend {backend}", grown]
        write_results(out, "compiled", "A forward pass of the target, ms", notes, rows, text)
    print(text)


if __name__ == "__main__":
    main()
