"""Which alignment makes the best draft: several drafts of one target, on the same requests."""

from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from atspeed.benchmark.benchmark import Method
from atspeed.benchmark.draft_coverage import measure_coverage
from atspeed.benchmark.measurement import load_packed, pick_device
from atspeed.benchmark.report.tables import report
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch
from atspeed.decoding import ItemTrie, SpeculativeDecoder
from atspeed.metrics import RecallAtK, Speculation
from atspeed.models import ModelSource
from atspeed.provenance import provenance

COVERED_LEVEL = 2  # codes of the prefixes whose coverage is shown: the last wide level of a catalog of four
COLUMNS = ("method", "K", "draft", "target calls", "against the first draft", "accepted levels", "Recall@K")


class AlignmentBenchmark:
    """Compares drafts of one target: target calls, accepted levels, recall and coverage on the same test requests.

    The first draft is the baseline: for the others the mean paired difference of target calls a request is given, with
    its 95 % confidence interval (normal approximation).

    Args:
        target: the model whose answer counts.
        drafts: name → draft; the baseline first.
        methods: name → drafter and verifier; each needs a draft.
        num_beams: the beam widths K.
        draft_beams: the draft widths N of the coverage curve.
        num_requests: test users, 2 or more, evenly spread over the file; takes the place of ``data.num_test_users``.
        num_threads: CPU threads of torch.
        seed: of the sampling methods.
        device: where to run; a GPU if there is one.
        out: the run folder; models are looked up there, ``benchmark/alignment.json`` and ``.png`` are written.

    Raises:
        ValueError: if a number is out of range, or there is no draft or no method.
    """

    def __init__(
        self,
        target: ModelSource,
        drafts: dict[str, ModelSource],
        methods: dict[str, Method],
        num_beams: tuple[int, ...] = (5, 10, 20),
        draft_beams: tuple[int, ...] = (20, 40, 80, 160, 320),
        num_requests: int = 500,
        num_threads: int = 2,
        seed: int = 0,
        device: str | None = None,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_threads=num_threads)
        require_at_least(2, num_requests=num_requests)  # an interval needs two
        if not drafts or not methods:
            raise ValueError(f"{'methods' if drafts else 'drafts'} is empty; expected one or more")
        self.target_source = target
        self.drafts = drafts
        self.methods = methods
        self.num_beams = num_beams
        self.draft_beams = draft_beams
        self.num_requests = num_requests
        self.num_threads = num_threads
        self.seed = seed
        self.device = pick_device(device)
        self.out = Path(out)

    def run(self, data: RecommendationData) -> dict[str, Any]:
        """Measure, print the tables, write JSON and figure, and return the content of the JSON."""
        from atspeed.benchmark.report.figures import draw_coverage, save_figure  # matplotlib: as in Benchmark.run

        torch.set_num_threads(self.num_threads)
        data.num_test_users = self.num_requests
        data.setup("test")
        trie = ItemTrie(data.catalog.tokens).to(self.device)
        target = load_packed(self.target_source, data, self.out, self.device)
        requests = data.test_requests()
        batches = data.batches_by_length(requests, data.batch_size, self.device)
        rows: list[dict[str, Any]] = []
        coverage: list[dict[str, Any]] = []
        calls: dict[tuple[str, int], Tensor] = {}
        for name, source in self.drafts.items():
            draft = load_packed(source, data, self.out, self.device)
            for covered in measure_coverage(target, draft, trie, batches, self.num_beams, self.draft_beams):
                if covered["level"] == COVERED_LEVEL:
                    coverage.append({"draft": name, **covered})
            for title, method in self.methods.items():
                decoder = SpeculativeDecoder(target, trie, method.drafter, method.verifier, draft)
                for width in self.num_beams:
                    row, target_calls = self._measure(decoder, trie, batches, width, f"{name}, {title}, K = {width}")
                    baseline = calls.setdefault((title, width), target_calls)
                    difference = (target_calls - baseline).double()
                    error = 1.96 * float(difference.std()) / len(difference) ** 0.5
                    row |= {"difference": float(difference.mean()), "interval": error}
                    rows.append({"draft": name, "method": title, "num_beams": width, **row})
        result = {
            "environment": provenance(self.device),
            "setting": {"run": str(self.out), "items": data.catalog.num_items, "requests": len(requests)},
            "rows": rows,
            "coverage": coverage,
        }
        report(result, self.out / "benchmark" / "alignment.json", [_table(rows), _coverage_table(coverage)])
        save_figure(draw_coverage(coverage), self.out / "benchmark" / "alignment.png")
        return result

    def _measure(
        self, decoder: SpeculativeDecoder, trie: ItemTrie, batches: list[RequestBatch], num_beams: int, title: str
    ) -> tuple[dict[str, float], Tensor]:
        """Return the means of a method, and its target calls of each request."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        recall = RecallAtK(num_beams).to(self.device)
        speculation = Speculation(trie.num_levels).to(self.device)
        calls = []
        for batch in track(batches, title, transient=True):
            decoded = decoder(batch.prompts, batch.prompt_mask, num_beams, generator=generator)
            recall.update(trie.concatenated_items(decoded.leaves, num_beams), batch.truth)
            calls.append(decoded.target_calls.cpu())
            speculation.update(decoded)
        target_calls = torch.cat(calls)
        means = {
            "target_calls": float(target_calls.double().mean()),
            "accepted_levels": float(speculation.compute()["accepted_levels"]),
            "recall": float(recall.compute()),
        }
        return means, target_calls


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS, title="drafts side by side")
    for row in sorted(rows, key=lambda row: (row["method"], row["num_beams"])):  # stable: drafts in their order
        table.add_row(
            row["method"],
            str(row["num_beams"]),
            row["draft"],
            f"{row['target_calls']:.3f}",
            f"{row['difference']:+.3f} ± {row['interval']:.3f}" if row["interval"] else "–",
            f"{row['accepted_levels']:.2f}",
            f"{row['recall']:.4f}",
        )
    return table


def _coverage_table(coverage: list[dict[str, Any]]) -> Table:
    widths = list(dict.fromkeys(row["draft_beams"] for row in coverage))
    table = Table("K", "draft", *(f"N = {width}" for width in widths), title="coverage of the prefixes of two codes")
    groups: dict[tuple[int, str], list[str]] = {}
    for row in coverage:
        groups.setdefault((row["num_beams"], row["draft"]), []).append(f"{row['coverage']:.2f}")
    for (num_beams, draft), values in sorted(groups.items(), key=lambda group: group[0][0]):
        table.add_row(str(num_beams), draft, *values)
    return table
