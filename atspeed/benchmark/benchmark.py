"""Side-by-side measurement: every request goes through every method in turn."""

import copy
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.report import print_table
from atspeed.data import RecommendationData
from atspeed.data.batches import RequestBatch
from atspeed.decoding import Decoded, Drafter, ItemTrie, NoDrafter, SpeculativeDecoder, StrictTopK, Verifier
from atspeed.metrics import NDCGAtK, RecallAtK
from atspeed.models import ModelSource, pack_linears
from atspeed.provenance import provenance

Method = Callable[[RequestBatch, int], tuple[Tensor, Tensor, Decoded | None]]
"""Batch and beam width → codes ``[B, K, L]``, scores ``[B, K]``, and what speculation did, if any."""

LOWEST_SCORE = -1e8  # below: what ``generate`` fills up with where the catalog has fewer semantic IDs than beams


@dataclass
class _Measured:
    """What one method did at one beam width."""

    seconds: list[float] = field(default_factory=list)
    identical: list[bool] = field(default_factory=list)
    score_gaps: list[float] = field(default_factory=list)
    target_calls: int = 0
    accepted_levels: int = 0
    drafted_levels: int = 0

    def compare(self, codes: Tensor, scores: Tensor, expected_codes: Tensor, expected_scores: Tensor) -> None:
        """Compare answers of a batch with those of ``generate``."""
        for answer, expected in zip(
            zip(codes.tolist(), scores, strict=True),
            zip(expected_codes.tolist(), expected_scores, strict=True),
            strict=True,
        ):
            (ours, our_scores), (theirs, their_scores) = answer, expected
            count, expected_count = int((our_scores > LOWEST_SCORE).sum()), int((their_scores > LOWEST_SCORE).sum())
            self.identical.append(ours[:count] == theirs[:expected_count])
            common = min(count, expected_count)
            self.score_gaps.append(float((our_scores[:common] - their_scores[:common]).abs().max()))

    def count(self, decoded: Decoded) -> None:
        """Add up what speculation did."""
        self.target_calls += int(decoded.target_calls.sum())
        self.accepted_levels += int(decoded.accepted_levels.sum())
        self.drafted_levels += int(decoded.drafted_levels.sum())


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
        num_requests: test users, evenly spread over the file.
        batch_size: requests decoded together; a latency is a batch's.
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
        counts = {"num_requests": num_requests, "batch_size": batch_size, "num_threads": num_threads}
        for name, value in {**counts, **{f"num_beams[{i}]": k for i, k in enumerate(num_beams)}}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
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
        self.trie = ItemTrie(data.catalog.tokens).to(self.device)
        self.reference = HFGenerate(copy.deepcopy(self.target), data.catalog.tokens)
        if self.pack_weights:
            for model in (self.target, self.draft):
                if model is not None:
                    pack_linears(model)
        self.items_of: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for item, codes in enumerate(data.catalog.tokens.tolist()):
            self.items_of[tuple(codes)].append(item)

    def _methods(self) -> dict[str, Method]:
        def speculative(drafter: Drafter) -> Method:
            decoder = SpeculativeDecoder(self.target, self.trie, drafter, self.verifier, self.draft)

            def answer(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
                decoded = decoder(batch.prompts, batch.prompt_mask, num_beams)
                return self.trie.token[self.trie.path(decoded.leaves).flip(-1)], decoded.scores, decoded

            return answer

        def reference(batch: RequestBatch, num_beams: int) -> tuple[Tensor, Tensor, Decoded | None]:
            return *self.reference(batch.prompts, batch.prompt_mask, num_beams), None

        return {"hf_generate": reference, **{name: speculative(drafter) for name, drafter in self.drafters.items()}}

    def _measure(self, num_beams: int, batches: list[RequestBatch]) -> list[dict[str, Any]]:
        """Return a row of each method at one beam width."""
        methods = self._methods()
        measured = {name: _Measured() for name in methods}
        metrics = {name: {"recall": RecallAtK(num_beams), "ndcg": NDCGAtK(num_beams)} for name in methods}
        schedule = [*batches[: self.num_warmup], *batches]
        for number, batch in enumerate(track(schedule, f"K = {num_beams}", transient=True)):
            expected: tuple[Tensor, Tensor] | None = None
            for name, method in methods.items():
                start = time.perf_counter()
                codes, scores, decoded = method(batch, num_beams)
                codes, scores = codes.cpu(), scores.cpu()  # waits for the device
                seconds = time.perf_counter() - start
                if number < self.num_warmup:
                    continue
                expected = expected or (codes, scores)
                measured[name].seconds.append(seconds)
                measured[name].compare(codes, scores, *expected)
                if decoded is not None:
                    measured[name].count(decoded)
                for metric in metrics[name].values():
                    metric.update(self._items(codes, scores), batch.truth.cpu())
        num_requests = sum(len(batch.users) for batch in batches)
        return [
            {
                "method": name,
                "verification": None if name == "hf_generate" else self.verifier.name,
                "num_beams": num_beams,
                "batch_size": self.batch_size,
                "requests": num_requests,
                **self._summary(measured[name], measured["hf_generate"], measured["plain"], num_requests),
                **{metric: float(value.compute()) for metric, value in metrics[name].items()},
            }
            for name in methods
        ]

    def _summary(self, own: _Measured, reference: _Measured, plain: _Measured, num_requests: int) -> dict[str, Any]:
        def speedup(other: _Measured) -> float:
            return statistics.median(theirs / ours for theirs, ours in zip(other.seconds, own.seconds, strict=True))

        target_calls = own.target_calls or None  # generate does not say
        return {
            "latency_ms": {
                "median": 1000 * statistics.median(own.seconds),
                "p90": 1000 * float(torch.tensor(own.seconds, dtype=torch.float64).quantile(0.9)),
            },
            "speedup_vs_hf": speedup(reference),
            "speedup_vs_plain": speedup(plain),
            "target_calls": target_calls and target_calls / num_requests,
            "accepted_levels": target_calls and own.accepted_levels / target_calls,
            "acceptance_rate": own.accepted_levels / own.drafted_levels if own.drafted_levels else None,
            "identical_to_hf": statistics.mean(own.identical),
            "max_score_gap": max(own.score_gaps),
        }

    def _items(self, codes: Tensor, scores: Tensor) -> Tensor:
        """Return item indices, ``[B, T]``, padded with -1, of the semantic IDs that are real answers."""
        lists = [
            [
                item
                for sid, score in zip(sids, row, strict=True)
                if score > LOWEST_SCORE
                for item in self.items_of[tuple(sid)]
            ]
            for sids, row in zip(codes.tolist(), scores.tolist(), strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(items) for items in lists], batch_first=True, padding_value=-1
        )
