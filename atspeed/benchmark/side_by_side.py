"""Several methods beside ``transformers.generate`` at one beam width and batch size: the same requests, in turn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.agreement import answers_of
from atspeed.benchmark.floor import FloorMeter
from atspeed.benchmark.kernel_time import kernel_seconds
from atspeed.benchmark.measurement import ItemsOf, Measurement
from atspeed.benchmark.method import Method
from atspeed.benchmark.method_row import MethodRow
from atspeed.benchmark.near_ties import count_near_ties
from atspeed.benchmark.phases import measure_phases
from atspeed.benchmark.prediction import PredictionRow, Predictor
from atspeed.benchmark.reference import HFGenerate
from atspeed.benchmark.timing import time_interleaved
from atspeed.data import RequestBatch
from atspeed.decoding import Captured, Decoded, ItemTrie, SpeculativeDecoder, request_seeds


class Found(NamedTuple):
    """What a method found for a batch, on its device.

    Attributes:
        codes: tokens of the semantic IDs, best first, ``[B, K, D]``, int64.
        scores: ``[B, K]``, float32.
        decoded: what speculation did; None for ``transformers.generate``.
    """

    codes: Tensor
    scores: Tensor
    decoded: Decoded | None


Search = Callable[[RequestBatch], Found]


class Captures(NamedTuple):
    """What a method captured before it was measured.

    Attributes:
        seconds: time of warm-ups and captures; None where nothing is captured.
        held_bytes: memory on the GPU that they hold; 0 on a CPU.
        nothing_fits: whether it would capture, but none of the sizes at hand, so that it runs eagerly.
    """

    seconds: float | None = None
    held_bytes: int = 0
    nothing_fits: bool = False


@dataclass(frozen=True)
class SideBySide:
    """Who is compared, and by what.

    Attributes:
        target: the target.
        trie: of its responses.
        items_of: the catalog's items by the tokens of their semantic ID.
        reference: ``transformers.generate``.
        methods: the methods by their name, ``plain`` among them.
        decoders: those who answer with them.
        predictor: what is known of the target's calls.
        floor_meter: what calls take at least; None leaves the floor out.
        tie_tolerance: of near-ties; None where strict answers must be those of the reference.
        num_warmup: number of batches to warm up with.
        profiled_batches: on about how many batches to measure phases and floor; 0 leaves them out.
        seed: of the sampling methods, and of the order of methods.
    """

    target: PreTrainedModel
    trie: ItemTrie
    items_of: ItemsOf
    reference: HFGenerate
    methods: dict[str, Method]
    decoders: dict[str, SpeculativeDecoder]
    predictor: Predictor
    floor_meter: FloorMeter | None
    tie_tolerance: float | None
    num_warmup: int
    profiled_batches: int
    seed: int

    def measure(
        self, names: list[str], profiled_names: set[str], num_beams: int, batch_size: int, batches: list[RequestBatch]
    ) -> tuple[list[MethodRow], list[PredictionRow]]:
        """Return the rows of ``transformers.generate`` and of methods at one beam width and batch size.

        What they captured for it is released afterwards.

        Args:
            names: of the methods.
            profiled_names: of those with phases and a floor.
            num_beams: beam width K.
            batch_size: requests decoded together.
            batches: all requests.
        """
        device = self.target.device
        searches: dict[str, Search] = {
            "hf_generate": _by_reference(self.reference, num_beams),
            **{name: _by_decoder(self.decoders[name], num_beams, self.seed) for name in names},
        }
        measured = {
            name: Measurement(name, self.methods.get(name), self.items_of, self.trie.num_levels, num_beams, batch_size)
            for name in searches
        }
        models_bytes = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        captures = {name: self._capture(name, searches[name], batches) for name in names}
        title = f"K = {num_beams}, batches of {batch_size}"
        for batch, done in time_interleaved(searches, batches, self.num_warmup, self.seed, title, device):
            for name, (took, found) in done.items():
                measured[name].add(took, answers_of(found.codes, found.scores), found.decoded, batch.truth.cpu())
        profiled = slice(None, None, max(1, len(batches) // max(1, self.profiled_batches)))
        rows, predictions = [], []
        for name, measurement in measured.items():
            row = measurement.row(measured["hf_generate"], measured["plain"])
            held = captures.get(name, Captures())
            memory = measurement.extra_bytes
            row = replace(
                row,
                execution="Eager" if held.nothing_fits else row.execution,
                capture_seconds=held.seconds,
                peak_memory_gb=None if memory is None else (models_bytes + held.held_bytes + memory) / 1e9,
            )
            if self.profiled_batches and name in profiled_names:
                row = replace(row, **self._profile(row, searches[name], measurement, profiled, batches))
            if row.phases_ms and row.verification == "strict":
                predictions.append(
                    self.predictor.row(
                        method=name,
                        num_beams=num_beams,
                        batch_size=batch_size,
                        target_ms=row.phases_ms["target"],
                        profiled=measurement.calls[profiled],
                        calls=measurement.calls,
                        plain=measured["plain"].calls,
                    )
                )
            rows.append(row)
        for name in names:
            if isinstance(execution := self.methods[name].execution, Captured):
                execution.release()  # key-value slots of all settings at once may be too much
        if self.tie_tolerance is not None:
            near_ties = count_near_ties(
                {row.method: measured[row.method].answers for row in rows if row.verification == "strict"},
                measured["hf_generate"].answers,
                batches,
                self.target,
                self.trie,
                self.items_of,
                num_beams,
                self.tie_tolerance,
            )
            rows = [replace(row, near_ties=near_ties.get(row.method)) for row in rows]
        return _with_trie_calls(rows, self.methods), predictions

    def _capture(self, name: str, search: Search, batches: list[RequestBatch]) -> Captures:
        """Let a method answer all batches once, so that each of their shapes is captured before it is timed."""
        execution = self.methods[name].execution
        if not isinstance(execution, Captured):
            return Captures()
        before = _reserved_bytes(self.target.device)
        for batch in batches:
            search(batch)
        held = _reserved_bytes(self.target.device) - before
        if not execution.captures:
            return Captures(nothing_fits=True)
        return Captures(sum(capture.seconds for capture in execution.captures), held)

    def _profile(
        self, row: MethodRow, search: Search, measurement: Measurement, profiled: slice, batches: list[RequestBatch]
    ) -> dict[str, Any]:
        """Return the columns of a row that come from the profiled batches alone."""
        columns: dict[str, Any] = {}
        device = self.target.device
        if row.capture_seconds is None:  # what replays a graph calls no module
            columns["phases_ms"] = measure_phases(self.decoders[row.method], batches[profiled], row.num_beams)
        if device.type == "cuda":
            seconds = [kernel_seconds(partial(search, batch), device) for batch in batches[profiled]]
            columns["kernel_ms"] = 1000 * sum(seconds) / len(seconds)
        if self.floor_meter:
            calls, seconds = measurement.calls[profiled], measurement.seconds[profiled]
            columns["floor"] = self.floor_meter.floor(calls, seconds)
        return columns


def _reserved_bytes(device: torch.device) -> int:
    """Return the memory on the GPU that is in use or held for captured graphs; 0 on a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def _with_trie_calls(rows: list[MethodRow], methods: dict[str, Method]) -> list[MethodRow]:
    """Tell methods with a draft how many calls the best strict trie drafter needs, without one."""
    by_trie = [row for row in rows if (row.drafter, row.verification) == ("TrieDrafter", "strict")]
    fewest = min((row.target_calls for row in by_trie if row.target_calls is not None), default=None)
    return [
        replace(row, trie_target_calls=fewest)
        if row.method in methods and methods[row.method].drafter.needs_draft
        else row
        for row in rows
    ]


def _by_decoder(decoder: SpeculativeDecoder, num_beams: int, seed: int) -> Search:
    def search(batch: RequestBatch) -> Found:
        seeds = request_seeds(seed, batch.rows)
        decoded = decoder(**batch.decoder_inputs, num_beams=num_beams, seeds=seeds)
        return Found(decoder.trie.tokens(decoded.leaves), decoded.scores, decoded)

    return search


def _by_reference(generate: HFGenerate, num_beams: int) -> Search:
    def search(batch: RequestBatch) -> Found:
        return Found(*generate(batch.prompts, batch.prompt_mask, num_beams), None)

    return search
