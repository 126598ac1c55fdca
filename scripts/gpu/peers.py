"""The shapes that others publish times of, with random weights and random catalogs.

Usage: ``python -m scripts.gpu.peers --out results``; writes ``peers.json`` and ``peers.md``. Weights and catalogs are
made on the machine. It takes under ten minutes on an H100 (it stops after nine and says what is missing); ``--tiny``
runs all of it on a CPU, with small shapes.

The peers, none of which is exact (each reports an overlap with something else), are NVIDIA's ``sid-gr-inference`` on an
H100 and FlashRec 0.1.2 on an RTX 5090; ``peer_shapes.py`` says what is assumed. No GPU has run this yet.
"""

import argparse
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding import (
    Captured,
    Decoded,
    Drafter,
    Eager,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    SpeculativeDecoder,
    TrieDrafter,
)
from atspeed.decoding.cost import CallShape
from atspeed.decoding.cost.bare_calls import BareCall
from atspeed.decoding.forward import cache_argument
from scripts.gpu.measuring import Times, as_graph, default_device, peak_gb, table, take_times, write_results
from scripts.gpu.peer_shapes import LEVELS, PEERS, TINY_PEERS, Peer, random_catalog, target_and_draft

SECONDS = 540


@dataclass(frozen=True)
class PeerRow:
    """What a method took.

    Attributes:
        peer: whose shape.
        prompt: tokens of every prompt.
        batch_size: requests.
        num_beams: K.
        execution: class of the execution.
        method: plain, trie or draft.
        times: of a batch.
        target_calls: of a request, the mean.
        target_tokens: scored by the target in a batch, prompts and padding included.
        peak_gb: most memory on the GPU beside models, catalog and what a captured shape keeps; None on a CPU.
        kept_gb: what a captured shape keeps; None on a CPU.
        capture_seconds: warm-up and capture, once for a shape; None for ``Eager``.
        overlap: share of the answers that plain search by ``Eager`` gives, too.
        illegal: answers that are no semantic ID of the catalog.
        duplicates: answers that a request gets more than once.
        prefill_ms: the prompts alone, causal attention without a mask, as one CUDA graph: no method can be faster.
        decode_ms: the two calls for K tokens of plain search, the forward passes alone, as CUDA graphs.
        published: the peer's.
    """

    peer: str
    prompt: int
    batch_size: int
    num_beams: int
    execution: str
    method: str
    times: Times
    target_calls: float
    target_tokens: int
    peak_gb: float | None
    kept_gb: float | None
    capture_seconds: float | None
    overlap: float
    illegal: int
    duplicates: int
    prefill_ms: float
    decode_ms: float
    published: str | None


def drafters(num_beams: int) -> dict[str, Drafter]:
    """Return the drafter of each method."""
    return {
        "plain": NoDrafter(),
        "trie": TrieDrafter(max_nodes=256),
        "draft": ModelDrafter(draft_beams=max(40, num_beams), gamma=LEVELS - 1),
    }


def floor(target: PreTrainedModel, prompts: Tensor, num_beams: int) -> tuple[float, float]:
    """Return the milliseconds of the prompts alone, and of plain search's other forward passes alone."""
    batch_size, length = prompts.shape

    @torch.inference_mode()
    def prefill() -> None:
        cache = {cache_argument(type(target).forward): DynamicCache()}
        target(input_ids=prompts, use_cache=True, logits_to_keep=1, **cache)

    shapes = (CallShape(num_beams, batch_size, length + level * num_beams) for level in range(LEVELS - 1))
    return take_times(as_graph(prefill)).median, sum(
        take_times(as_graph(BareCall(target, shape))).median for shape in shapes
    )


class Case:
    """A shape of requests: what its methods are measured with.

    Args:
        peer: the peer.
        case: prompt tokens, batch size, K.
        models: target and draft.
        trie: the catalog.
    """

    def __init__(
        self, peer: Peer, case: tuple[int, int, int], models: tuple[PreTrainedModel, PreTrainedModel], trie: ItemTrie
    ) -> None:
        length, batch_size, self.num_beams = case
        self.peer, self.case, self.trie = peer, case, trie
        self.target, self.draft = models
        device = self.target.device
        texts = peer.vocabulary - LEVELS * peer.codes
        generator = torch.Generator().manual_seed(1)
        self.prompts = torch.randint(1, texts, (batch_size, length), generator=generator).to(device)
        self.mask = torch.ones_like(self.prompts, dtype=torch.bool)
        self.prefill_ms, self.decode_ms = floor(self.target, self.prompts, self.num_beams)
        self.reference: Tensor | None = None

    def executions(self) -> list[Eager | Captured]:
        """Return the ways to run a search, ``Eager`` first, whose plain search all others are compared with."""
        length, batch_size, num_beams = self.case
        return [
            Eager(),
            Captured(num_beams=(num_beams,), batch_sizes=(batch_size,), prompt_lengths=(length,)),
        ]

    def measure(self, execution: Eager | Captured, method: str) -> PeerRow:
        """Return the row of a method."""
        drafter = drafters(self.num_beams)[method]
        decode = SpeculativeDecoder(self.target, self.trie, drafter, draft=self.draft, execution=execution)

        def answer() -> Decoded:
            return decode(self.prompts, self.mask, self.num_beams)

        before = _allocated_gb()
        decoded = answer()
        kept = None if before is None else _allocated_gb() - before
        if self.reference is None:
            self.reference = decoded.leaves
        times, peak, capture_seconds = take_times(answer), peak_gb(answer), None
        if isinstance(execution, Captured):
            capture_seconds = sum(capture.seconds for capture in execution.captures)
            execution.release()
        return self._row(type(execution).__name__, method, decoded, times, peak, kept, capture_seconds)

    def _row(
        self,
        execution: str,
        method: str,
        decoded: Decoded,
        times: Times,
        peak: float | None,
        kept: float | None,
        capture_seconds: float | None,
    ) -> PeerRow:
        rows = decoded.leaves.tolist()
        reference = self.reference.tolist()
        num_answers = min(self.num_beams, self.trie.num_leaves)
        length, batch_size, num_beams = self.case
        same = sum(len(set(found) & set(expected)) for found, expected in zip(rows, reference, strict=True))
        legal = self.trie.is_leaf(decoded.leaves) & (decoded.scores > -torch.inf)
        return PeerRow(
            peer=self.peer.name,
            prompt=length,
            batch_size=batch_size,
            num_beams=num_beams,
            execution=execution,
            method=method,
            times=times,
            target_calls=float(decoded.target_calls.float().mean()),
            target_tokens=sum(shape.total_tokens for shape in decoded.target_shapes),
            peak_gb=peak,
            kept_gb=kept,
            capture_seconds=capture_seconds,
            overlap=same / (batch_size * num_answers),
            illegal=batch_size * num_answers - int(legal.sum()),
            duplicates=sum(len(found) - len(set(found)) for found in rows),
            prefill_ms=self.prefill_ms,
            decode_ms=self.decode_ms,
            published=self.peer.published.get(self.case),
        )


def _allocated_gb() -> float | None:
    return torch.cuda.memory_allocated() / 1e9 if torch.cuda.is_available() else None


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a CPU")
    options = parser.parse_args()
    end = time.perf_counter() + SECONDS
    rows: list[PeerRow] = []
    missing: list[str] = []
    for peer in TINY_PEERS if options.tiny else PEERS:
        for row in measured(peer, options.tiny, end, missing):
            rows.append(row)
            write(options.out, rows, missing)
        gc.collect()  # a model is a cycle of references, and the next one needs its memory
    write(options.out, rows, missing)


def measured(peer: Peer, tiny: bool, end: float, missing: list[str]) -> Iterator[PeerRow]:
    """Yield the rows of a peer; cases that would begin after ``end`` are added to the missing ones."""
    trie = random_catalog(peer).to(default_device())
    models = target_and_draft(peer, default_device(), tiny)
    for shape in peer.cases:
        if time.perf_counter() > end:
            missing.append(f"{peer.name} {shape}")
            continue
        case = Case(peer, shape, models, trie)
        if shape in peer.published:
            for execution in case.executions():
                for method in drafters(1):
                    yield case.measure(execution, method)
        else:
            yield case.measure(Eager(), "plain")


def write(folder: Path, rows: list[PeerRow], missing: list[str]) -> None:
    """Write the table."""
    header = (
        *("peer", "prompt", "batch", "K", "execution", "method", "ms", "p90", "wall ms", "published"),
        *("prefill alone ms", "decode alone ms", "calls", "tokens", "peak GB", "kept GB", "capture s"),
        *("overlap", "illegal", "duplicates"),
    )
    cells = [
        (
            *(row.peer, row.prompt, row.batch_size, row.num_beams, row.execution, row.method),
            *(row.times.median, row.times.p90, row.times.wall, row.published, row.prefill_ms, row.decode_ms),
            *(row.target_calls, row.target_tokens, row.peak_gb, row.kept_gb, row.capture_seconds),
            *(row.overlap, row.illegal, row.duplicates),
        )
        for row in rows
    ]
    notes = [
        "Times of a batch by CUDA events (median, p90) and wall clock (median), on a CPU wall time. The published "
        "times are NVIDIA's sid-gr-inference (H100) and FlashRec 0.1.2 (RTX 5090), measured by their authors.",
        "Prefill alone: the prompts, causal attention without a mask. Decode alone: plain search's two calls for K "
        "tokens each, forward passes only. Both as CUDA graphs; their sum is the floor of plain search.",
        "Assumed: Qwen3-1.7B's shape with tied embeddings and random weights in bfloat16. NVIDIA: its vocabulary of "
        "151,936 tokens; NVIDIA publishes no catalog (beams may be any tokens), so 1.5 million random semantic IDs of "
        "3 × 8,192 codes, and of 3 × 256. OneRec: 176,245 tokens, Qwen3's 151,669 and 3 × 8,192 codes, of which 1.5 "
        "million random semantic IDs. Codes are drawn uniformly; real ones are not.",
        "Method draft: the draft is the target's first two layers, of which the others change little: it is almost "
        "always right, so the row is the best that such a draft can give. N = K, at least 40.",
        "Overlap: with plain search by Eager. In bfloat16 rounding decides near-ties. 1.5 million semantic IDs of a "
        "random catalog are closer to each other than real ones.",
    ]
    if missing:
        notes.append(f"Not run, for lack of time: {'; '.join(missing)}.")
    write_results(folder, "peers", "Shapes of others, random weights", notes, rows, table(header, cells))


if __name__ == "__main__":
    main()
