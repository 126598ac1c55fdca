"""Which alignment makes the best draft: several drafts of one target, on the same requests."""

from dataclasses import asdict
from pathlib import Path

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from atspeed.benchmark.draft_coverage import measure_coverage
from atspeed.benchmark.loading import ModelLoader, pick_device
from atspeed.benchmark.method import Method
from atspeed.benchmark.report.output import report
from atspeed.benchmark.rows import ComparisonResult, ComparisonSetting, DraftCoverageRow, DraftRow, Environment
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch
from atspeed.decoding import SpeculativeDecoder, request_seeds
from atspeed.metrics import RecallAtK, Speculation
from atspeed.models import ModelSource
from atspeed.provenance import provenance

COVERED_LEVEL = 1  # whose coverage is shown: prefixes of two codes, the last wide level of a catalog of four
COLUMNS = ("method", "K", "draft", "target calls", "against the first draft", "accepted levels", "Recall@K")


class AlignmentBenchmark:
    """Compares drafts of one target: target calls, accepted levels, recall and coverage on the same test requests.

    The first draft is the baseline: the others are compared with it by the mean paired difference of target calls per
    request, with its 95 % confidence interval (normal approximation).

    Args:
        target: the model whose answer counts.
        drafts: name → draft; the baseline first.
        methods: name → drafter and verifier; each needs a draft.
        num_beams: the beam widths K.
        draft_beams: the draft widths N of the coverage curve.
        num_requests: test users, 2 or more, evenly spread over the file; replaces ``data.num_test_users``.
        num_threads: CPU threads of torch.
        seed: of the sampling methods.
        device: where to run; a GPU if there is one.
        out: the run folder, where models are looked up; gets ``benchmark/alignment.json`` and ``.png``.

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

    def run(self, data: RecommendationData) -> ComparisonResult:
        """Measure, print the tables, write JSON and figure, and return the content of the JSON."""
        from atspeed.benchmark.report.coverage_figure import draw_coverage  # matplotlib: as in Benchmark.run
        from atspeed.panels import save_figure

        data.num_test_users = self.num_requests
        data.setup("test")
        loader = ModelLoader(data, self.out, self.device, self.num_threads)
        target = loader.load_packed(self.target_source, data.encoder)
        requests = data.test_requests()
        batches = data.batches_by_length(requests, data.batch_size, self.device)
        rows: list[DraftRow] = []
        coverage: list[DraftCoverageRow] = []
        baselines: dict[tuple[str, int], Tensor] = {}
        for name, source in self.drafts.items():
            draft = loader.load_packed(source, data.draft_encoder)
            covered = measure_coverage(
                target, draft, loader.trie, loader.draft_tokens, batches, self.num_beams, self.draft_beams
            )
            coverage += [DraftCoverageRow(name, **asdict(row)) for row in covered if row.level == COVERED_LEVEL]
            for title, method in self.methods.items():
                decoder = SpeculativeDecoder(
                    target, loader.trie, method.drafter, method.verifier, draft, draft_tokens=loader.draft_tokens
                )
                for width in self.num_beams:
                    calls, accepted_levels, recall = self._measure(decoder, batches, width, f"{name}, {title}")
                    difference = calls - baselines.setdefault((title, width), calls)
                    rows.append(
                        DraftRow(
                            draft=name,
                            method=title,
                            num_beams=width,
                            target_calls=float(calls.mean()),
                            accepted_levels=accepted_levels,
                            recall=recall,
                            difference=float(difference.mean()),
                            interval=1.96 * float(difference.std()) / len(difference) ** 0.5,
                        )
                    )
        setting = ComparisonSetting(str(self.out), data.catalog.num_items, len(requests))
        result = ComparisonResult(Environment(**provenance(self.device)), setting, rows, coverage)
        report(result, self.out / "benchmark" / "alignment.json", [_table(rows), _coverage_table(coverage)])
        save_figure(draw_coverage(coverage), self.out / "benchmark" / "alignment.png")
        return result

    def _measure(
        self, decoder: SpeculativeDecoder, batches: list[RequestBatch], num_beams: int, title: str
    ) -> tuple[Tensor, float, float]:
        """Return the target calls of each request, float64, the accepted levels per target call, and the recall."""
        recall = RecallAtK(num_beams).to(self.device)
        speculation = Speculation(decoder.trie.num_levels).to(self.device)
        calls = []
        for batch in track(batches, f"{title}, K = {num_beams}", transient=True):
            seeds = request_seeds(self.seed, batch.rows)
            decoded = decoder(**batch.decoder_inputs, num_beams=num_beams, seeds=seeds)
            recall.update(decoder.trie.concatenated_items(decoded.leaves, num_beams), batch.truth)
            calls.append(decoded.target_calls.cpu())
            speculation.update(decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted)
        return torch.cat(calls).double(), float(speculation.compute()["accepted_levels"]), float(recall.compute())


def _table(rows: list[DraftRow]) -> Table:
    table = Table(*COLUMNS, title="drafts side by side")
    for row in sorted(rows, key=lambda row: (row.method, row.num_beams)):  # stable: drafts in their order
        table.add_row(
            row.method,
            str(row.num_beams),
            row.draft,
            f"{row.target_calls:.3f}",
            f"{row.difference:+.3f} ± {row.interval:.3f}" if row.interval else "–",
            f"{row.accepted_levels:.2f}",
            f"{row.recall:.4f}",
        )
    return table


def _coverage_table(coverage: list[DraftCoverageRow]) -> Table:
    widths = list(dict.fromkeys(row.draft_beams for row in coverage))
    title = f"coverage at level {COVERED_LEVEL} (0: the first code)"
    table = Table("K", "draft", *(f"N = {width}" for width in widths), title=title)
    groups: dict[tuple[int, str], list[str]] = {}
    for row in coverage:
        groups.setdefault((row.num_beams, row.draft), []).append(f"{row.coverage:.2f}")
    for (num_beams, draft), values in sorted(groups.items(), key=lambda group: group[0][0]):
        table.add_row(str(num_beams), draft, *values)
    return table
