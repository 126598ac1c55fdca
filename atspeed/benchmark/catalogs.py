"""What a catalog costs as it grows."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from atspeed.benchmark.phases import measure_phases
from atspeed.benchmark.report.output import report
from atspeed.benchmark.rows import CatalogRow, CatalogsResult, Environment
from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import Drafter, ItemFilter, ItemTrie, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.provenance import provenance

NUM_BEAMS = 20
NUM_REQUESTS = 30
COLUMNS = {
    "items": ",d",
    "nodes": ",d",
    "build_seconds": ".1f",
    "build_peak_gb": ".2f",
    "bytes_a_node": ".0f",
    "filter_ms": ".1f",
    "plain_ms": ".2f",
    "trie_ms": ".2f",
}


class CatalogBenchmark:
    """Measures tries of random items: time and memory of the build, of a filter, and of a request outside the model.

    Each catalog is built in a process of its own. ``build_peak_gb`` is the peak memory of that process, including all
    libraries and the items themselves. ``filter_ms`` is the time to turn a boolean over items into one over nodes.
    ``plain_ms`` and ``trie_ms`` are the milliseconds per request (K = 20, a prompt of 32 tokens, batch 1) outside the
    model's forward passes with ``NoDrafter`` and ``TrieDrafter``: the part that the catalog's size may change.

    Args:
        num_items: sizes of the catalogs.
        num_levels: codes per semantic ID.
        num_codes: different codes per level.
        num_threads: CPU threads of torch.
        out: the run folder; ``benchmark/catalogs.json`` is written.
    """

    def __init__(
        self,
        num_items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000),
        num_levels: int = 4,
        num_codes: int = 256,
        num_threads: int = 2,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_levels=num_levels, num_codes=num_codes, num_threads=num_threads)
        require_at_least(1, **{f"num_items[{index}]": size for index, size in enumerate(num_items)})
        self.num_items = num_items
        self.shape = num_levels, num_codes, num_threads
        self.out = Path(out)

    def run(self) -> CatalogsResult:
        """Measure, print the table, write ``catalogs.json`` and return its content."""
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = pool.map(partial(_measure, *self.shape), self.num_items, chunksize=1)
        result = CatalogsResult(Environment(**provenance(torch.device("cpu"))), rows)
        table = Table(*(name.replace("_a_", " per ").replace("_", " ") for name in COLUMNS), title="random catalogs")
        for row in rows:
            table.add_row(*(format(getattr(row, name), form) for name, form in COLUMNS.items()))
        report(result, self.out / "benchmark" / "catalogs.json", [table])
        return result


def _measure(num_levels: int, num_codes: int, num_threads: int, num_items: int) -> CatalogRow:
    torch.set_num_threads(num_threads)
    generator = torch.Generator().manual_seed(0)
    sids = torch.randint(num_codes, (num_items, num_levels), generator=generator)
    start = time.perf_counter()
    trie = ItemTrie(sids)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes
    arrays = [value for value in vars(trie).values() if isinstance(value, torch.Tensor)]
    by_node = sum(array.nbytes for array in arrays if len(array) == trie.num_nodes)
    start = time.perf_counter()
    ItemFilter(torch.rand(num_items, generator=generator) < 0.5).node_mask(trie, 1)
    filter_seconds = time.perf_counter() - start
    outside = _outside_the_model(trie, num_codes)
    return CatalogRow(
        items=num_items,
        nodes=trie.num_nodes,
        build_seconds=seconds,
        build_peak_gb=peak,
        bytes_a_node=by_node / trie.num_nodes,
        filter_ms=1000 * filter_seconds,
        plain_ms=outside(NoDrafter()),
        trie_ms=outside(TrieDrafter()),
    )


def _outside_the_model(trie: ItemTrie, num_codes: int) -> Callable[[Drafter], float]:
    """Return a function from a drafter to the milliseconds per request outside the forward passes of a tiny model."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", vocab_size=num_codes, **sizes)).eval()
    prompts = torch.randint(num_codes, (NUM_REQUESTS, 1, 32), generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, dtype=torch.long)
    batches = []
    for prompt in prompts:
        mask = torch.ones_like(prompt, dtype=torch.bool)
        batches.append(RequestBatch(nothing, prompt, mask, prompt, mask, nothing, nothing))

    def measure(drafter: Drafter) -> float:
        decoder = SpeculativeDecoder(model, trie, drafter)
        measure_phases(decoder, batches[:5], NUM_BEAMS)  # warms up
        phases = measure_phases(decoder, batches, NUM_BEAMS)
        return sum(phases.values()) - phases["target"]

    return measure
