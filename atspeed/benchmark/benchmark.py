"""Side-by-side measurement: every request goes through every method in turn."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import PreTrainedModel

from atspeed.benchmark.draft_coverage import measure_coverage
from atspeed.benchmark.measurement import Answer, Measurement, answers_of, pick_device, time_interleaved
from atspeed.benchmark.phases import measure_phases
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.report.tables import report, tables_of
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData
from atspeed.data.batches import RequestBatch
from atspeed.decoding import (
    Decoded,
    Drafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    SpeculativeDecoder,
    StrictTopK,
    Verifier,
)
from atspeed.models import ModelSource, pack_linears
from atspeed.provenance import provenance

PROFILED_BATCHES = 20
Answers = Callable[[RequestBatch], tuple[list[Answer], Decoded | None]]
"""Batch → answers, and what speculation did, if any."""


@dataclass
class Method:
    """A way to answer requests.

    Args:
        drafter: who proposes.
        verifier: what is accepted.
    """

    drafter: Drafter
    verifier: Verifier = field(default_factory=StrictTopK)


class Benchmark:
    """Measures ``transformers.generate``, plain beam search and speculative methods in one run.

    For each beam width and batch size, every request goes through all methods one after the other, so that a slow
    moment of the machine meets all of them, in an order that changes from batch to batch, because a method leaves
    caches behind that serve some methods better than others. The first requests warm up and do not count. Requests are
    taken in the order of their length, so that a batch has little padding.

    At the largest beam width and the first batch size, the requests go through the points of two curves, too, which
    take the draft by ``ModelDrafter`` and cost about as much as so many more methods there.

    Args:
        target: the model whose answer counts.
        methods: the speculative methods, name → drafter and verifier.
        draft: the model of the drafters that need one.
        num_beams: the beam widths K.
        batch_sizes: requests decoded together; a latency is a batch's. They take the place of ``data.batch_size``.
        num_requests: test users, evenly spread over the file; takes the place of ``data.num_test_users``.
        coverage_beams: the draft widths N of the coverage curve, if there is a draft.
        draft_widths: the draft widths N of the curve of target calls under strict verification, if there is a draft.
        temperatures: those of the curve of recall against speed under relaxed verification, if there is a draft; leave
            it empty for semantic IDs of different lengths.
        num_warmup: batches to warm up with.
        num_threads: CPU threads of torch.
        pack_weights: let the engine run on packed weights (:func:`atspeed.models.pack_linears`); ``hf_generate``
            always runs the model as ``transformers`` loads it.
        seed: of the sampling methods, and of the order of methods.
        device: where to run; a GPU if there is one.
        out: the run folder; models are looked up there; to ``benchmark`` go ``benchmark.json``, ``report.html``, its
            figures as PNG files, and TensorBoard events with the same figures.
    """

    def __init__(
        self,
        target: ModelSource,
        methods: dict[str, Method],
        draft: ModelSource | None = None,
        num_beams: tuple[int, ...] = (1, 5, 10, 20),
        batch_sizes: tuple[int, ...] = (1,),
        num_requests: int = 100,
        coverage_beams: tuple[int, ...] = (20, 40, 80, 160, 320),
        draft_widths: tuple[int, ...] = (20, 40, 80),
        temperatures: tuple[float, ...] = (0.25, 0.5, 1.0),
        num_warmup: int = 3,
        num_threads: int = 2,
        pack_weights: bool = True,
        seed: int = 0,
        device: str | None = None,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_requests=num_requests, num_threads=num_threads)
        for name, values in (
            ("num_beams", num_beams),
            ("batch_sizes", batch_sizes),
            ("coverage_beams", coverage_beams),
            ("draft_widths", draft_widths),
        ):
            require_at_least(1, **{f"{name}[{place}]": value for place, value in enumerate(values)})
        self.target_source = target
        self.draft_source = draft
        self.methods = {"plain": Method(NoDrafter()), **methods}
        self.num_beams = num_beams
        self.batch_sizes = batch_sizes
        self.num_requests = num_requests
        self.coverage_beams = coverage_beams
        self.curves = {
            **{f"draft, N = {width}": Method(ModelDrafter(width)) for width in draft_widths},
            **{f"relaxed, T = {value:g}": Method(ModelDrafter(), RelaxedSampling(value)) for value in temperatures},
        }
        self.num_warmup = num_warmup
        self.num_threads = num_threads
        self.pack_weights = pack_weights
        self.seed = seed
        self.device = pick_device(device)
        self.out = Path(out)

    def run(self, data: RecommendationData) -> dict[str, Any]:
        """Measure, print the tables, write the files and return the content of ``benchmark.json``."""
        from atspeed.benchmark.report.page import write_report  # matplotlib: only where it draws, not in every command

        torch.set_num_threads(self.num_threads)
        data.num_test_users = self.num_requests
        data.setup("test")
        self._build(data)
        requests = data.test_requests()
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        for batch_size in self.batch_sizes:
            batches = data.batches_by_length(requests, batch_size, self.device)
            for width in self.num_beams:
                with_curves = (batch_size, width) == (self.batch_sizes[0], max(self.num_beams))
                for row in self._measure(width, batches, batch_size, with_curves):
                    (curves if row["method"] in self.curves else rows).append(row)
        coverage = []
        if self.draft is not None and self.coverage_beams:
            batches = data.batches_by_length(requests, 1, self.device)
            coverage = measure_coverage(
                self.target,
                self.draft,
                self.trie,
                track(batches, "coverage", transient=True),
                self.num_beams,
                self.coverage_beams,
            )
        result = {
            "environment": {**provenance(self.device), "dtype": str(self.target.dtype).removeprefix("torch.")},
            "setting": {
                "run": str(self.out),
                "source": type(data.source).__name__,
                "items": data.catalog.num_items,
                "levels": data.catalog.num_levels,
                **self.sizes,
                "pack_weights": self.pack_weights,
            },
            "rows": rows,
            "curves": curves,
            "coverage": coverage,
        }
        folder, tables = self.out / "benchmark", tables_of(result)
        report(result, folder / "benchmark.json", tables, write_report(result, tables, folder))
        return result

    def _build(self, data: RecommendationData) -> None:
        def build(source: ModelSource) -> PreTrainedModel:
            model: Any = source.build(data.catalog.vocabulary, self.out)
            return model.to(self.device)

        needs_draft = any(method.drafter.needs_draft for method in self.methods.values())
        self.target = build(self.target_source)
        self.draft = build(self.draft_source) if self.draft_source and needs_draft else None
        self.sizes = {
            "target_parameters": self.target.num_parameters(),
            "draft_parameters": self.draft.num_parameters() if self.draft else None,
        }
        self.catalog = data.catalog
        self.trie = ItemTrie(data.catalog.tokens).to(self.device)
        self.reference = HFGenerate(copy.deepcopy(self.target), data.catalog.tokens)
        if self.pack_weights:
            for model in (self.target, self.draft):
                if model is not None:
                    pack_linears(model)
        if self.draft is None:
            self.curves = {}
        self.decoders = {
            name: SpeculativeDecoder(self.target, self.trie, method.drafter, method.verifier, self.draft)
            for name, method in {**self.methods, **self.curves}.items()
        }

    def _answers(self, names: Iterable[str], num_beams: int) -> dict[str, Answers]:
        def speculative(decoder: SpeculativeDecoder) -> Answers:
            generator = torch.Generator(self.device).manual_seed(self.seed)

            def answer(batch: RequestBatch) -> tuple[list[Answer], Decoded | None]:
                decoded = decoder(batch.prompts, batch.prompt_mask, num_beams, generator=generator)
                return answers_of(self.trie.codes(decoded.leaves), decoded.scores), decoded  # waits for the device

            return answer

        def reference(batch: RequestBatch) -> tuple[list[Answer], Decoded | None]:
            return answers_of(*self.reference(batch.prompts, batch.prompt_mask, num_beams)), None

        return {"hf_generate": reference, **{name: speculative(self.decoders[name]) for name in names}}

    def _measure(
        self, num_beams: int, batches: list[RequestBatch], batch_size: int, with_curves: bool
    ) -> list[dict[str, Any]]:
        """Return a row of each method, and of each point of a curve if asked for, at one beam width and batch size."""
        methods = {**self.methods, **(self.curves if with_curves else {})}
        answers_by = self._answers(methods, num_beams)
        measured = {name: Measurement(self.catalog, num_beams) for name in answers_by}
        title = f"K = {num_beams}, batches of {batch_size}"
        for batch, done in time_interleaved(answers_by, batches, self.num_warmup, self.seed, title):
            _, (expected, _) = done["hf_generate"]
            for name, (seconds, (answers, decoded)) in done.items():
                measured[name].add(seconds, answers, expected, decoded, batch.truth.cpu())
        profiled = batches[:: max(1, len(batches) // PROFILED_BATCHES)]
        rows = []
        for name, measurement in measured.items():
            method = methods.get(name)
            strict = method is None or isinstance(method.verifier, StrictTopK)
            rows.append(
                {
                    "method": name,
                    "drafter": type(method.drafter).__name__ if method else None,
                    "draft_beams": getattr(method.drafter, "draft_beams", None) if method else None,
                    "verification": method.verifier.name if method else None,
                    "temperature": getattr(method.verifier, "temperature", None) if method else None,
                    "num_beams": num_beams,
                    "batch_size": batch_size,
                    "requests": len(measurement.identical),
                    **measurement.summary(measured["hf_generate"], measured["plain"], strict),
                    "phases_ms": measure_phases(self.decoders[name], profiled, num_beams)
                    if name in self.methods
                    else None,
                }
            )
        without_draft = [
            row["target_calls"] for row in rows if (row["drafter"], row["verification"]) == ("TrieDrafter", "strict")
        ]
        for row in rows:
            drafts = row["method"] in methods and methods[row["method"]].drafter.needs_draft
            row["trie_target_calls"] = min(without_draft) if drafts and without_draft else None
        return rows
