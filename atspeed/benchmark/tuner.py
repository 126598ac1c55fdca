"""Which drafter answers fastest: candidates side by side on validation users, under strict verification."""

import logging
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.benchmark.loading import ModelLoader, pick_device
from atspeed.benchmark.report.output import report
from atspeed.benchmark.report.tuning import FINAL, PLAIN, conclusion_of, overlay_of, spec_of, table_of
from atspeed.benchmark.rows import CandidateRow, Environment, TuneResult, TuneSetting
from atspeed.benchmark.timing import FEWEST_VALUES, median_interval, median_ratio, ratios, time_interleaved
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch
from atspeed.data.examples import RequestExample, evenly_spread
from atspeed.decoding import (
    Beams,
    Decoded,
    Drafter,
    HybridDrafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    PrefixScorer,
    PriceAwareDrafter,
    SpeculativeDecoder,
    TrieDrafter,
)
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.drafters.calibration import calibrate, keep_calibration
from atspeed.metrics import Speculation
from atspeed.models import ModelSource
from atspeed.provenance import provenance
from atspeed.recommender.calibration_file import save_calibration
from atspeed.recommender.cost_file import load_costs

log = logging.getLogger(__name__)

SCREENED = 3  # every third request is for the first round, the others are for the final
Seconds = dict[str, list[float]]
"""Candidate, from simple to complex → wall time of each batch; the same batches for all."""


class Tuner:
    """Finds the drafter with the lowest latency on validation users; strict answers are the same with all of them.

    The candidates, from simple to complex: plain beam search, ``TrieDrafter`` with each node budget, ``HybridDrafter``
    with each, ``PriceAwareDrafter``, ``ModelDrafter`` with each draft width and depth. In the first round all of them
    answer a third of the requests, by which the draft is calibrated anew before; in the final the fastest few and plain
    beam search answer the others. A candidate's advantage is the median of the ratios of wall times per batch, with the
    95 % confidence interval of a sign test. The fastest candidate of the final is chosen, or the simplest that it does
    not certainly beat: where the interval of their ratio contains 1. Batches have ``data.batch_size`` requests; a
    latency is per batch.

    Args:
        target: the model whose answer counts.
        draft: the model of the drafters that need one; without it, or without its stage, they are left out.
        trie_nodes: node budgets of ``TrieDrafter``; ``auto`` is measured.
        hybrid_nodes: node budgets of ``HybridDrafter``.
        draft_beams: draft widths N of ``ModelDrafter``, each with every ``gamma``.
        gamma: levels that ``ModelDrafter`` drafts ahead.
        num_beams: the beam width K.
        num_requests: validation users, evenly spread over the file.
        num_finalists: number of candidates in the final, in addition to plain beam search.
        num_warmup: number of batches to warm up with in each round; they do not count.
        num_threads: CPU threads of torch.
        seed: of the order in which a batch goes through the candidates.
        device: where to run; a GPU if there is one.
        out: the run folder, where models are looked up; gets ``tune/tune.json`` and ``tune/recommend.yaml``. The
            draft's folder gets its calibration, ``calibration.json``.
    """

    def __init__(
        self,
        target: ModelSource,
        draft: ModelSource | None = None,
        trie_nodes: tuple[int | Literal["auto"], ...] = ("auto", 64, 256),
        hybrid_nodes: tuple[int, ...] = (160, 640),
        draft_beams: tuple[int, ...] = (20, 40, 80),
        gamma: tuple[int, ...] = (1, 2, 3),
        num_beams: int = 20,
        num_requests: int = 300,
        num_finalists: int = 3,
        num_warmup: int = 2,
        num_threads: int = 2,
        seed: int = 0,
        device: str | None = None,
        out: Path = Path("runs/default"),
    ) -> None:
        require_at_least(1, num_beams=num_beams, num_requests=num_requests, num_finalists=num_finalists)
        require_at_least(1, num_threads=num_threads)
        require_at_least(0, num_warmup=num_warmup)
        self.target_source = target
        self.draft_source = draft
        self.candidates: dict[str, Drafter] = {
            PLAIN: NoDrafter(),
            **{f"trie, {nodes} nodes": TrieDrafter(nodes) for nodes in trie_nodes},
            **{f"hybrid, {nodes} nodes": HybridDrafter(nodes) for nodes in hybrid_nodes},
            "price-aware": PriceAwareDrafter(),
            **{
                f"draft, N = {beams}, γ = {depth}": ModelDrafter(beams, depth)
                for beams in draft_beams
                for depth in gamma
            },
        }
        self.num_beams = num_beams
        self.num_requests = num_requests
        self.num_finalists = num_finalists
        self.num_warmup = num_warmup
        self.num_threads = num_threads
        self.seed = seed
        self.device = pick_device(device)
        self.out = Path(out)

    def run(self, data: RecommendationData) -> TuneResult:
        """Measure, print the table, write the overlay and ``tune.json``, and return the content of the latter.

        Raises:
            ValueError: if the users make too few batches for a confidence interval.
        """
        data.setup("fit")
        requests = evenly_spread(data.requests("val"), self.num_requests)
        final_requests = [request for index, request in enumerate(requests) if index % SCREENED]
        num_batches = math.ceil(len(final_requests) / data.batch_size)
        if num_batches < FEWEST_VALUES:
            raise ValueError(
                f"{len(requests)} validation users (num_requests: {self.num_requests}) leave {num_batches} batches of "
                f"data.batch_size {data.batch_size} for the final; an interval takes {FEWEST_VALUES} or more: lower "
                "data.batch_size, or raise num_requests if there are more users"
            )
        decoders = self._build(data, requests[::SCREENED])
        rows, first = self._measure("first round", decoders, requests[::SCREENED], data)
        fastest = sorted(decoders, key=lambda name: median_ratio(first[name], first[PLAIN]))
        finalists = {PLAIN, *[name for name in fastest if name != PLAIN][: self.num_finalists]}
        decoders = {name: decoder for name, decoder in decoders.items() if name in finalists}
        final_rows, final = self._measure(FINAL, decoders, final_requests, data)
        setting = TuneSetting(
            run=str(self.out),
            source=type(data.source).__name__,
            items=data.catalog.num_items,
            num_beams=self.num_beams,
            batch_size=data.batch_size,
            requests=len(requests),
        )
        result = TuneResult(Environment(**provenance(self.device)), setting, [*rows, *final_rows], choose(final))
        folder = self.out / "tune"
        overlay = folder / "recommend.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        overlay.write_text(overlay_of(self.candidates[result.chosen], conclusion_of(result)), encoding="utf-8")
        report(result, folder / "tune.json", [table_of(result)], [overlay])
        return result

    def _build(self, data: RecommendationData, requests: list[RequestExample]) -> dict[str, SpeculativeDecoder]:
        """Return a decoder for each candidate whose models are there; the draft is calibrated on ``requests``."""
        loader = ModelLoader(data, self.out, self.device, self.num_threads)
        target = loader.load_packed(self.target_source, data.encoder)
        draft, missing = None, "draft is not set"
        if self.draft_source is not None:
            try:
                draft = loader.load_packed(self.draft_source, data.draft_encoder)
            except FileNotFoundError as error:
                missing = str(error)
        load_costs(self.out, target, self.target_source, draft, self.draft_source)
        if draft is not None and self.draft_source is not None:
            calibration = calibrate(draft, loader.trie, self._target_beams(target, loader.trie, data, requests))
            keep_calibration(draft, calibration)
            save_calibration(calibration, self.draft_source, self.target_source, self.out)
        left_out = [name for name, drafter in self.candidates.items() if drafter.needs_draft and draft is None]
        if left_out:
            log.info("left out, because they need a draft: %s. %s", "; ".join(left_out), missing)
        return {
            name: SpeculativeDecoder(target, loader.trie, drafter, draft=draft, draft_tokens=loader.draft_tokens)
            for name, drafter in self.candidates.items()
            if name not in left_out
        }

    def _target_beams(
        self, target: PreTrainedModel, trie: ItemTrie, data: RecommendationData, requests: list[RequestExample]
    ) -> Iterator[tuple[Tensor, Tensor, list[Beams]]]:
        for batch in track(
            data.batches_by_length(requests, data.batch_size, self.device), "calibration", transient=True
        ):
            scorer = PrefixScorer(target, trie, batch.prompts, batch.prompt_mask)
            yield batch.draft_prompts, batch.draft_prompt_mask, beams_by_depth(scorer, self.num_beams)

    def _measure(
        self,
        title: str,
        decoders: dict[str, SpeculativeDecoder],
        requests: list[RequestExample],
        data: RecommendationData,
    ) -> tuple[list[CandidateRow], Seconds]:
        """Return a row for each candidate, and its wall times."""
        batches = data.batches_by_length(requests, data.batch_size, self.device)
        methods = {name: _answers_by(decoder, self.num_beams) for name, decoder in decoders.items()}
        seconds: Seconds = {name: [] for name in decoders}
        counts = {name: Speculation(next(iter(decoders.values())).trie.num_levels).to(self.device) for name in decoders}
        for _, done in time_interleaved(methods, batches, self.num_warmup, self.seed, title, self.device):
            for name, (took, decoded) in done.items():
                seconds[name].append(took.seconds)
                counts[name].update(decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted)
        rows = []
        for name in decoders:
            speedups, calls = ratios(seconds[PLAIN], seconds[name]), counts[name].compute()
            rows.append(
                CandidateRow(
                    round=title,
                    candidate=name,
                    drafter=spec_of(self.candidates[name]),
                    batches=len(batches),
                    latency_ms=1000 * statistics.median(seconds[name]),
                    speedup_vs_plain=statistics.median(speedups),
                    interval=median_interval(speedups) if len(speedups) >= FEWEST_VALUES else None,
                    target_calls=float(calls["target_calls"]),
                    draft_calls=float(calls["draft_calls"]),
                )
            )
        return rows, seconds


def _answers_by(decoder: SpeculativeDecoder, num_beams: int) -> Callable[[RequestBatch], Decoded]:
    def answer(batch: RequestBatch) -> Decoded:
        return decoder(**batch.decoder_inputs, num_beams=num_beams)

    return answer


def choose(seconds: Seconds) -> str:
    """Return the fastest candidate, or the simplest (first) one that it does not certainly beat.

    >>> plain = [1.0, 1.1, 1.0, 1.2, 1.1, 1.0]
    >>> choose({"plain": plain, "sometimes": [0.5, 0.5, 0.5, 0.5, 0.5, 1.3], "always": [0.9, 1.0, 0.9, 1.1, 1.0, 0.9]})
    'plain'
    >>> choose({"plain": plain, "always": [0.9, 1.0, 0.9, 1.1, 1.0, 0.9]})
    'always'
    """
    fastest = min(seconds, key=lambda name: median_ratio(seconds[name], seconds[PLAIN]))
    return next(name for name in seconds if median_interval(ratios(seconds[name], seconds[fastest]))[0] <= 1)
