"""Side-by-side measurement: every request goes through every method in turn."""

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.measurement import Answer, Measurement, answers_of
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.report import print_table
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData
from atspeed.data.batches import RequestBatch
from atspeed.decoding import Decoded, Drafter, ItemTrie, NoDrafter, SpeculativeDecoder, StrictTopK, Verifier
from atspeed.models import ModelSource, pack_linears
from atspeed.provenance import provenance

Method = Callable[[RequestBatch, int], tuple[Tensor, Tensor, Decoded | None]]
"""Batch and beam width → codes ``[B, K, L]``, scores ``[B, K]``, and what speculation did, if any."""


class Benchmark:
    """Measures ``transformers.generate``, plain beam search and drafters in one run.

    For each beam width, every request goes through all methods one after the other, so that a slow moment of the
    machine meets all of them; the first requests warm up and do not count.

    Args:
        target: the model whose answer counts.
        drafters: the speculative methods, name → drafter.
        draft: the model of the drafters that need one.
        verifier: what is accepted.
        num_beams: the beam widths K.
        num_requests: test users, evenly spread over the file; takes the place of ``data.num_test_users``.
        batch_size: requests decoded together, a latency is a batch's; takes the place of ``data.batch_size``.
        num_warmup: batches to warm up with.
        num_threads: CPU threads of torch.
        pack_weights: let the engine run on packed weights (:func:`atspeed.models.pack_linears`); ``hf_generate``
            always runs the model as ``transformers`` loads it.
        device: where to run; a GPU if there is one.
        out: the run folder; models are looked up there and ``benchmark/benchmark.json`` is written.
    """

    def __init__(
        self,
        target: ModelSource,
        drafters: dict[str, Drafter],
        draft: ModelSource | None = None,
        verifier: Verifier | None = None,
        num_beams: tuple[int, ...] = (1, 5, 10, 20),
        num_requests: int = 100,
        batch_size: int = 1,
        num_warmup: int = 3,
        num_threads: int = 2,
        pack_weights: bool = True,
        device: str | None = None,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_requests=num_requests, batch_size=batch_size, num_threads=num_threads)
        require_at_least(1, **{f"num_beams[{place}]": width for place, width in enumerate(num_beams)})
        self.target_source = target
        self.draft_source = draft
        self.drafters = {"plain": NoDrafter(), **drafters}
        self.verifier = verifier or StrictTopK()
        self.num_beams = num_beams
        self.num_requests = num_requests
        self.batch_size = batch_size
        self.num_warmup = num_warmup
        self.num_threads = num_threads
        self.pack_weights = pack_weights
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.out = Path(out)

    def run(self, data: RecommendationData) -> dict[str, Any]:
        """Measure, print the table, write ``benchmark.json`` and return its content."""
        torch.set_num_threads(self.num_threads)
        data.num_test_users, data.batch_size = self.num_requests, self.batch_size
        data.setup("test")
        self._build(data)
        batches = [RequestBatch(*(tensor.to(self.device) for tensor in batch)) for batch in data.test_dataloader()]
        rows = [row for width in self.num_beams for row in self._measure(width, batches)]
        result = {
            "environment": {**provenance(self.device), "dtype": str(self.target.dtype).removeprefix("torch.")},
            "setting": {
                "run": str(self.out),
                "source": type(data.source).__name__,
                "items": data.catalog.num_items,
                "levels": data.catalog.num_levels,
                **self.sizes,
                "pack_weights": self.pack_weights,
                "requests": sum(len(batch.users) for batch in batches),
            },
            "rows": rows,
        }
        file = self.out / "benchmark" / "benchmark.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")
        print_table(result)
        Console().print(f"written to {file}")
        return result

    def _build(self, data: RecommendationData) -> None:
        def build(source: ModelSource) -> PreTrainedModel:
            model: Any = source.build(data.catalog.vocabulary, self.out)
            return model.to(self.device)

        needs_draft = any(drafter.needs_draft for drafter in self.drafters.values())
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

    def _methods(self) -> dict[str, Method]:
        def speculative(drafter: Drafter) -> Method:
            decoder = SpeculativeDecoder(self.target, self.trie, drafter, self.verifier, self.draft)

            def answer(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
                decoded = decoder(batch.prompts, batch.prompt_mask, num_beams)
                return self.trie.codes(decoded.leaves), decoded.scores, decoded

            return answer

        def reference(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
            return *self.reference(batch.prompts, batch.prompt_mask, num_beams), None

        return {"hf_generate": reference, **{name: speculative(drafter) for name, drafter in self.drafters.items()}}

    def _measure(self, num_beams: int, batches: list[RequestBatch]) -> list[dict[str, Any]]:
        """Return a row of each method at one beam width."""
        methods = self._methods()
        measured = {name: Measurement(self.catalog, num_beams) for name in methods}
        schedule = [*batches[: self.num_warmup], *batches]
        for number, batch in enumerate(track(schedule, f"K = {num_beams}", transient=True)):
            expected: list[Answer] | None = None
            for name, method in methods.items():
                start = time.perf_counter()
                codes, scores, decoded = method(batch, num_beams)
                answers = answers_of(codes, scores)  # waits for the device
                seconds = time.perf_counter() - start
                expected = expected or answers
                if number >= self.num_warmup:
                    measured[name].add(seconds, answers, expected, decoded, batch.truth.cpu())
        return [
            {
                "method": name,
                "verification": None if name == "hf_generate" else self.verifier.name,
                "num_beams": num_beams,
                "batch_size": self.batch_size,
                "requests": len(measured[name].identical),
                **measured[name].summary(measured["hf_generate"], measured["plain"]),
            }
            for name in methods
        ]
