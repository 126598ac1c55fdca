"""Side-by-side measurement: every request goes through every method in turn."""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.coverage import measure_coverage
from atspeed.benchmark.measurement import Answer, Measurement, answers_of
from atspeed.benchmark.phases import measure_phases
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.report import report, tables_of
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData
from atspeed.data.batches import RequestBatch, collate_requests
from atspeed.decoding import Decoded, Drafter, ItemTrie, NoDrafter, SpeculativeDecoder, StrictTopK, Verifier
from atspeed.models import ModelSource, pack_linears
from atspeed.provenance import provenance

PROFILED_BATCHES = 20
Answers = Callable[[RequestBatch, int], tuple[Tensor, Tensor, Decoded | None]]
"""Batch and beam width → codes ``[B, K, L]``, scores ``[B, K]``, and what speculation did, if any."""


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

    Args:
        target: the model whose answer counts.
        methods: the speculative methods, name → drafter and verifier.
        draft: the model of the drafters that need one.
        num_beams: the beam widths K.
        batch_sizes: requests decoded together; a latency is a batch's. They take the place of ``data.batch_size``.
        num_requests: test users, evenly spread over the file; takes the place of ``data.num_test_users``.
        coverage_beams: the draft widths N of the coverage curve, if there is a draft.
        num_warmup: batches to warm up with.
        num_threads: CPU threads of torch.
        pack_weights: let the engine run on packed weights (:func:`atspeed.models.pack_linears`); ``hf_generate``
            always runs the model as ``transformers`` loads it.
        seed: of the sampling methods, and of the order of methods.
        device: where to run; a GPU if there is one.
        out: the run folder; models are looked up there and ``benchmark/benchmark.json`` is written.
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
        ):
            require_at_least(1, **{f"{name}[{place}]": value for place, value in enumerate(values)})
        self.target_source = target
        self.draft_source = draft
        self.methods = {"plain": Method(NoDrafter()), **methods}
        self.num_beams = num_beams
        self.batch_sizes = batch_sizes
        self.num_requests = num_requests
        self.coverage_beams = coverage_beams
        self.num_warmup = num_warmup
        self.num_threads = num_threads
        self.pack_weights = pack_weights
        self.seed = seed
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.out = Path(out)

    def run(self, data: RecommendationData) -> dict[str, Any]:
        """Measure, print the tables, write ``benchmark.json`` and return its content."""
        torch.set_num_threads(self.num_threads)
        data.num_test_users = self.num_requests
        data.setup("test")
        self._build(data)
        rows = []
        for batch_size in self.batch_sizes:
            batches = self._batches(data, batch_size)
            rows += [row for width in self.num_beams for row in self._measure(width, batches, batch_size)]
        coverage = []
        if self.draft is not None and self.coverage_beams:
            requests = track(self._batches(data, 1), "coverage", transient=True)
            coverage = measure_coverage(
                self.target, self.draft, self.trie, requests, self.num_beams, self.coverage_beams
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
            "coverage": coverage,
        }
        report(result, self.out / "benchmark" / "benchmark.json", tables_of(result))
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
        self.decoders = {
            name: SpeculativeDecoder(self.target, self.trie, method.drafter, method.verifier, self.draft)
            for name, method in self.methods.items()
        }

    def _batches(self, data: RecommendationData, batch_size: int) -> list[RequestBatch]:
        requests = sorted(data.test_requests(), key=lambda request: len(request.history))
        starts = range(0, len(requests), batch_size)
        batches = [collate_requests(requests[start : start + batch_size], data.prompt) for start in starts]
        return [RequestBatch(*(tensor.to(self.device) for tensor in batch)) for batch in batches]

    def _answers(self) -> dict[str, Answers]:
        def speculative(decoder: SpeculativeDecoder) -> Answers:
            generator = torch.Generator(self.device).manual_seed(self.seed)

            def answer(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
                decoded = decoder(batch.prompts, batch.prompt_mask, num_beams, generator=generator)
                return self.trie.codes(decoded.leaves), decoded.scores, decoded

            return answer

        def reference(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
            return *self.reference(batch.prompts, batch.prompt_mask, num_beams), None

        return {"hf_generate": reference, **{name: speculative(decoder) for name, decoder in self.decoders.items()}}

    def _measure(self, num_beams: int, batches: list[RequestBatch], batch_size: int) -> list[dict[str, Any]]:
        """Return a row of each method at one beam width and batch size."""
        answers_by = self._answers()
        measured = {name: Measurement(self.catalog, num_beams) for name in answers_by}
        warmup = batches[: self.num_warmup]
        order = random.Random(self.seed)
        title = f"K = {num_beams}, batches of {batch_size}"
        for number, batch in enumerate(track([*warmup, *batches], title, transient=True)):
            done: dict[str, tuple[float, list[Answer], Decoded | None]] = {}
            for name in order.sample(list(answers_by), len(answers_by)):
                start = time.perf_counter()
                codes, scores, decoded = answers_by[name](batch, num_beams)
                answers = answers_of(codes, scores)  # waits for the device
                done[name] = time.perf_counter() - start, answers, decoded
            if number >= len(warmup):
                _, expected, _ = done["hf_generate"]
                for name, (seconds, answers, decoded) in done.items():
                    measured[name].add(seconds, answers, expected, decoded, batch.truth.cpu())
        profiled = batches[:: max(1, len(batches) // PROFILED_BATCHES)]
        rows = []
        for name, measurement in measured.items():
            method = self.methods.get(name)
            strict = method is None or isinstance(method.verifier, StrictTopK)
            rows.append(
                {
                    "method": name,
                    "drafter": type(method.drafter).__name__ if method else None,
                    "verification": method.verifier.name if method else None,
                    "temperature": getattr(method.verifier, "temperature", None) if method else None,
                    "num_beams": num_beams,
                    "batch_size": batch_size,
                    "requests": len(measurement.identical),
                    **measurement.summary(measured["hf_generate"], measured["plain"], strict),
                    "phases_ms": measure_phases(self.decoders[name], profiled, num_beams) if method else None,
                }
            )
        without_draft = [
            row["target_calls"] for row in rows if (row["drafter"], row["verification"]) == ("TrieDrafter", "strict")
        ]
        for row in rows:
            drafts = row["method"] in self.methods and self.methods[row["method"]].drafter.needs_draft
            row["trie_target_calls"] = min(without_draft) if drafts and without_draft else None
        return rows
