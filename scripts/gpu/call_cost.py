"""What a call costs: 1 to 1,024 new tokens of one request, for the shapes of LLaMA-7B, Qwen3-1.7B and LLaMA-68M.

Usage: ``python -m scripts.gpu.call_cost --out results``; writes ``call-cost.json`` and ``call-cost.md``. The weights
are random and made on the device, in bfloat16. It should take about two minutes on an H100; ``--tiny`` runs all of it
on a CPU, with small shapes. No GPU has run it yet.

Columns: the model called as a search calls it (tokens, positions, an additive mask, a cache of the context), launched
kernel by kernel and replayed as one CUDA graph. Below it ``measure_cost`` of the package and the price of a call ρ that
follows from each.
"""

import argparse
import gc
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaConfig, PreTrainedConfig

from atspeed.benchmark.floor import copy_bandwidth
from atspeed.decoding.cost import CallShape, CostModel, ModelSize, measure_cost
from atspeed.decoding.cost.bare_calls import BareCall
from scripts.gpu.measuring import Times, as_graph, default_device, random_model, table, take_times, write_results
from scripts.gpu.peer_shapes import qwen3
from scripts.memory import LLAMA_7B, LLAMA_68M

TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
CONTEXTS = (64, 1000)
SHAPES: dict[str, PreTrainedConfig] = {
    "LLaMA-7B": LLAMA_7B,
    "Qwen3-1.7B": qwen3(151_936, tiny=False),
    "LLaMA-68M": LLAMA_68M,
}
TINY = LlamaConfig(vocab_size=100, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)


@dataclass(frozen=True)
class CallRow:
    """A call of one request.

    Attributes:
        model: the shape.
        context: slots that the cache holds before.
        tokens: new ones.
        launched: kernel by kernel.
        replayed: as one CUDA graph; None on a CPU.
        weights_ms: one read of the weights at the speed of a large copy.
    """

    model: str
    context: int
    tokens: int
    launched: Times
    replayed: Times | None
    weights_ms: float


@dataclass(frozen=True)
class PriceRow:
    """The price of a call of a model.

    Attributes:
        model: the shape.
        how: how the calls were made.
        call_ms: a call for one token (a).
        token_us: a further token where there are many (b).
        price: ρ = a / b, in tokens.
        cost: the fitted curve.
    """

    model: str
    how: str
    call_ms: float
    token_us: float
    price: float
    cost: CostModel

    @classmethod
    def of(cls, model: str, how: str, cost: CostModel) -> "PriceRow":
        """Sum up a fitted curve."""
        return cls(model, how, 1e3 * cost.seconds(1), 1e6 * cost.token_seconds, cost.call_price, cost)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a CPU")
    options = parser.parse_args()
    shapes = {"tiny": TINY} if options.tiny else SHAPES
    tokens, contexts = ((1, 4, 16), (8, 32)) if options.tiny else (TOKENS, CONTEXTS)
    device, calls, prices = default_device(), [], []
    bandwidth = copy_bandwidth(device)
    for name, config in shapes.items():
        model = random_model(config, device)
        weights_ms = 1e3 * ModelSize.of(model).bytes / bandwidth
        for context in contexts:
            for count in tokens:
                call = BareCall(model, CallShape(count, 1, context))
                replayed = take_times(as_graph(call)) if device.type == "cuda" else None
                calls.append(CallRow(name, context, count, take_times(call), replayed, weights_ms))
        prices.append(PriceRow.of(name, "measure_cost", measure_cost(model)))
        for how in ("launched", "replayed"):
            timed = [(CallShape(row.tokens, 1, row.context), getattr(row, how)) for row in calls if row.model == name]
            if all(times is not None for _, times in timed):
                cost = CostModel.fit((shape, times.median / 1e3) for shape, times in timed)
                prices.append(PriceRow.of(name, how, cost))
        write(options.out, calls, prices, bandwidth)
        del model, call
        gc.collect()  # a model is a cycle of references, and the next one needs its memory


def write(folder: Path, calls: list[CallRow], prices: list[PriceRow], bandwidth: float) -> None:
    """Write both tables."""
    header = ("model", "context", "tokens", "launched ms", "p90", "wall ms", "replayed ms", "p90", "weights ms")
    rows = [
        (row.model, row.context, row.tokens, row.launched.median, row.launched.p90, row.launched.wall)
        + ((row.replayed.median, row.replayed.p90) if row.replayed else (None, None))
        + (row.weights_ms,)
        for row in calls
    ]
    price_header = ("model", "calls", "a: call ms", "b: token µs", "ρ = a / b")
    price_rows = [(row.model, row.how, row.call_ms, row.token_us, row.price) for row in prices]
    notes = (
        f"A large copy on the device reads and writes {bandwidth / 1e9:,.0f} GB/s; weights ms: the weights that a call "
        "reads over this.",
        "Launched and replayed: median and p90 by CUDA events, on a CPU wall time. The forward pass alone with the "
        "logits of all new tokens; measure_cost includes the log-softmax and what a search gathers from it, by wall "
        "time, after 64 and 512 tokens of context.",
        "Random weights in bfloat16; one request.",
    )
    text = table(header, rows) + "\n" + table(price_header, price_rows)
    write_results(folder, "call-cost", "What a call costs", notes, [*calls, *prices], text)


if __name__ == "__main__":
    main()
