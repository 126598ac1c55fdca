"""Which drafter answers fastest: candidates side by side on validation users, under strict verification."""

import inspect
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf
from rich.table import Table

from atspeed.benchmark.measurement import load_packed, pick_device, time_interleaved
from atspeed.benchmark.report.tables import report
from atspeed.checks import require_at_least
from atspeed.data import RecommendationData, RequestBatch
from atspeed.data.examples import RequestExample, evenly_spread
from atspeed.decoding import (
    Decoded,
    Drafter,
    HybridDrafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    SpeculativeDecoder,
    TrieDrafter,
)
from atspeed.metrics import Speculation
from atspeed.models import ModelSource
from atspeed.provenance import provenance

log = logging.getLogger(__name__)

PLAIN = "plain"
SCREENED = 3  # one request of so many is for the first round, the others for the final
FEWEST_RATIOS = 6  # fewer have no 95 % interval of their median
Seconds = dict[str, list[float]]
"""Candidate, from simple to complex → wall time of each batch; the same batches for all."""


class Tuner:
    """Finds the drafter with the lowest latency on validation users; strict answers are the same with all of them.

    The candidates, from simple to complex: plain beam search, ``TrieDrafter`` with each node budget, ``HybridDrafter``
    with each, ``ModelDrafter`` with each draft width and depth. In the first round all of them answer a third of the
    requests; in the final the fastest few and plain beam search answer the others. A candidate's advantage is the
    median of the ratios of wall times batch by batch, with the 95 % confidence interval that goes with a sign test. The
    fastest of the final is chosen, or the simplest that it does not beat for certain: where the interval of their ratio
    holds 1. Batches are of ``data.batch_size``; a latency is a batch's.

    Args:
        target: the model whose answer counts.
        draft: the model of the drafters that need one; without it, or without its stage, they are left out.
        trie_nodes: node budgets of ``TrieDrafter``; ``auto`` is measured.
        hybrid_nodes: node budgets of ``HybridDrafter``.
        draft_beams: draft widths N of ``ModelDrafter``, each with every ``gamma``.
        gamma: levels that ``ModelDrafter`` drafts ahead.
        num_beams: the beam width K.
        num_requests: validation users, evenly spread over the file.
        num_finalists: candidates of the final, beside plain beam search.
        num_warmup: batches to warm up with in each round; they do not count.
        num_threads: CPU threads of torch.
        seed: of the order in which a batch goes through the candidates.
        device: where to run; a GPU if there is one.
        out: the run folder; models are looked up there, ``tune/tune.json`` and ``tune/recommend.yaml`` are written.
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

    def run(self, data: RecommendationData) -> dict[str, Any]:
        """Measure, print the table, write the overlay and ``tune.json``, and return the content of the latter."""
        torch.set_num_threads(self.num_threads)
        data.setup("fit")
        requests = evenly_spread(data.requests("val"), self.num_requests)
        rest = [request for place, request in enumerate(requests) if place % SCREENED]
        num_batches = math.ceil(len(rest) / data.batch_size)
        if num_batches < FEWEST_RATIOS:
            raise ValueError(
                f"{len(requests)} validation users (num_requests: {self.num_requests}) leave {num_batches} batches of "
                f"data.batch_size {data.batch_size} for the final; an interval takes {FEWEST_RATIOS} or more: lower "
                "data.batch_size, or raise num_requests if there are more users"
            )
        decoders = self._build(data)
        rows, first = self._measure("first round", decoders, requests[::SCREENED], data)
        fastest = sorted(decoders, key=lambda name: statistics.median(_ratios(first, name, PLAIN)))
        finalists = {PLAIN, *[name for name in fastest if name != PLAIN][: self.num_finalists]}
        decoders = {name: decoder for name, decoder in decoders.items() if name in finalists}
        final_rows, final = self._measure("final", decoders, rest, data)
        result: dict[str, Any] = {
            "environment": provenance(self.device),
            "setting": {
                "run": str(self.out),
                "source": type(data.source).__name__,
                "items": data.catalog.num_items,
                "num_beams": self.num_beams,
                "batch_size": data.batch_size,
                "requests": len(requests),
            },
            "rows": [*rows, *final_rows],
            "chosen": (chosen := choose(final)),
        }
        folder = self.out / "tune"
        overlay = folder / "recommend.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        overlay.write_text(overlay_of(self.candidates[chosen], _conclusion(result)), encoding="utf-8")
        report(result, folder / "tune.json", [_table(result)], [overlay])
        return result

    def _build(self, data: RecommendationData) -> dict[str, SpeculativeDecoder]:
        """Return a decoder for each candidate that can be had."""
        target = load_packed(self.target_source, data, self.out, self.device)
        trie = ItemTrie(data.catalog.tokens).to(self.device)
        draft, missing = None, "draft is not set"
        if self.draft_source is not None:
            try:
                draft = load_packed(self.draft_source, data, self.out, self.device)
            except FileNotFoundError as error:
                missing = str(error)
        left_out = [name for name, drafter in self.candidates.items() if drafter.needs_draft and draft is None]
        if left_out:
            log.info("left out, because they need a draft: %s. %s", "; ".join(left_out), missing)
        return {
            name: SpeculativeDecoder(target, trie, drafter, draft=draft)
            for name, drafter in self.candidates.items()
            if name not in left_out
        }

    def _measure(
        self,
        title: str,
        decoders: dict[str, SpeculativeDecoder],
        requests: list[RequestExample],
        data: RecommendationData,
    ) -> tuple[list[dict[str, Any]], Seconds]:
        """Return a row of each candidate, and its wall times."""

        def answer(decoder: SpeculativeDecoder) -> Callable[[RequestBatch], Decoded]:
            def decode(batch: RequestBatch) -> Decoded:
                decoded = decoder(batch.prompts, batch.prompt_mask, self.num_beams)
                decoded.leaves.tolist()  # waits for the device
                return decoded

            return decode

        batches = data.batches_by_length(requests, data.batch_size, self.device)
        methods = {name: answer(decoder) for name, decoder in decoders.items()}
        seconds: Seconds = {name: [] for name in decoders}
        counts = {name: Speculation(data.catalog.num_levels).to(self.device) for name in decoders}
        for _, done in time_interleaved(methods, batches, self.num_warmup, self.seed, title):
            for name, (elapsed, decoded) in done.items():
                seconds[name].append(elapsed)
                counts[name].update(decoded)
        rows = []
        for name in decoders:
            speedups, calls = _ratios(seconds, PLAIN, name), counts[name].compute()
            rows.append(
                {
                    "round": title,
                    "candidate": name,
                    "drafter": spec_of(self.candidates[name]),
                    "batches": len(batches),
                    "latency_ms": 1000 * statistics.median(seconds[name]),
                    "speedup_vs_plain": statistics.median(speedups),
                    "interval": list(median_interval(speedups)) if len(speedups) >= FEWEST_RATIOS else None,
                    "target_calls": float(calls["target_calls"]),
                    "draft_calls": float(calls["draft_calls"]),
                }
            )
        return rows, seconds


def _ratios(seconds: Seconds, slower: str, faster: str) -> list[float]:
    return [ours / theirs for ours, theirs in zip(seconds[slower], seconds[faster], strict=True)]


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median that goes with the sign test; exact for any distribution.

    >>> median_interval([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 9.0])
    (1.1, 1.7)

    Raises:
        ValueError: with fewer than six values, which have no such interval.
    """
    count, left_out, tail = len(values), 0, 0.5 ** len(values)
    while tail <= 0.025:  # the chance that so few values lie below the median
        left_out += 1
        tail += math.comb(count, left_out) / 2**count
    if left_out == 0:
        raise ValueError(f"{count} values have no 95 % interval of their median; expected {FEWEST_RATIOS} or more")
    ordered = sorted(values)
    return ordered[left_out - 1], ordered[-left_out]


def choose(seconds: Seconds) -> str:
    """Return the fastest candidate, or the simplest (first) one that it does not beat for certain.

    >>> plain = [1.0, 1.1, 1.0, 1.2, 1.1, 1.0]
    >>> choose({"plain": plain, "sometimes": [0.5, 0.5, 0.5, 0.5, 0.5, 1.3], "always": [0.9, 1.0, 0.9, 1.1, 1.0, 0.9]})
    'plain'
    >>> choose({"plain": plain, "always": [0.9, 1.0, 0.9, 1.1, 1.0, 0.9]})
    'always'
    """
    fastest = min(seconds, key=lambda name: statistics.median(_ratios(seconds, name, PLAIN)))
    return next(name for name in seconds if median_interval(_ratios(seconds, name, fastest))[0] <= 1)


def spec_of(drafter: Drafter) -> dict[str, Any]:
    """Return what a config says of a drafter: its class, and all its settings, so that none of another's stays."""
    settings = {name: getattr(drafter, name) for name in inspect.signature(type(drafter)).parameters}
    return {"class_path": type(drafter).__name__, "init_args": settings}


def overlay_of(drafter: Drafter, conclusion: str) -> str:
    """Return the YAML of an overlay for ``configs/recommend.yaml``."""
    content = {"model": {"init_args": {"drafter": spec_of(drafter), "verifier": {"class_path": "StrictTopK"}}}}
    return (
        f"# {conclusion}\n"
        "# python -m atspeed test --config configs/recommend.yaml --config <this file> …\n" + OmegaConf.to_yaml(content)
    )


def _conclusion(result: dict[str, Any]) -> str:
    setting, final = result["setting"], [row for row in result["rows"] if row["round"] == "final"]
    chosen = next(row for row in final if row["candidate"] == result["chosen"])
    where = f"K = {setting['num_beams']}, batches of {setting['batch_size']}, {result['environment']['device']}"
    if result["chosen"] == PLAIN:
        return f"{PLAIN}: no candidate was faster for certain ({where})"
    low, high = chosen["interval"]
    return (
        f"{result['chosen']}: {chosen['speedup_vs_plain']:.2f} times as fast as plain beam search, 95 % interval "
        f"{low:.2f} to {high:.2f} ({where})"
    )


def _table(result: dict[str, Any]) -> Table:
    setting = result["setting"]
    title = f"{setting['source']}, {setting['requests']} validation users, strict: time of a batch against plain's"
    table = Table(title=title, caption=f"chosen: {_conclusion(result)}")
    for name in ("round", "candidate"):
        table.add_column(name)
    for name in ("batches", "median ms", "vs plain", "95 % interval", "target calls", "draft calls"):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        if row["round"] == "final" and row["candidate"] == PLAIN:
            table.add_section()
        interval = "–" if row["interval"] is None else "{:.2f} to {:.2f}".format(*row["interval"])
        table.add_row(
            row["round"],
            row["candidate"],
            str(row["batches"]),
            f"{row['latency_ms']:.1f}",
            f"{row['speedup_vs_plain']:.2f}",
            interval,
            f"{row['target_calls']:.2f}",
            f"{row['draft_calls']:.2f}",
            style="bold" if (row["round"], row["candidate"]) == ("final", result["chosen"]) else None,
        )
    return table
