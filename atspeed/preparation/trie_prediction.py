"""What the trie drafter will cost on a catalog: target calls and tokens, before there is a target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atspeed.decoding import ItemTrie, StrictTopK, TrieDrafter
from atspeed.decoding.search import search
from atspeed.preparation.simulated_target import SimulatedTarget
from atspeed.preparation.spread import Spread

MAX_NODES = 256
"""Nodes per call, as in ``configs/benchmark.yaml``: what a GPU scores at little more than the price of a call."""
NUM_BEAMS = (1, 5, 10, 20)
NUM_REQUESTS = 32
TYPICAL = 4.0
"""How far requests differ (:class:`SimulatedTarget`), as under a target trained on Amazon Beauty. Predicted for it are
101, 130, 160 and 216 new tokens at K = 1, 5, 10 and 20; measured were 99, 125, 154 and 209 (60 test users)."""
FEW_CALLS = 2
"""With so many target calls or fewer, a learned draft has little left to save."""


@dataclass(frozen=True)
class TrieRow:
    """What ``TrieDrafter`` will cost at one beam width, strict verification.

    Least and most are over all simulated requests, and equal where the catalog alone decides. The mean is over those of
    a typical target.

    Attributes:
        num_beams: beam width K.
        target_calls: per request; plain beam search takes a call per level.
        new_tokens: prefixes that the target scores per request, in addition to the prompt's tokens.
    """

    num_beams: int
    target_calls: Spread
    new_tokens: Spread


def predict_trie(trie: ItemTrie, interactions: np.ndarray, num_beams: Sequence[int] = NUM_BEAMS) -> list[TrieRow]:
    """Replay the search with simulated targets, and count as the benchmark counts.

    Where the drafter's budget holds complete levels, the catalog decides alone. Otherwise it matters which beams the
    target takes: below a popular prefix there is more to score. Three targets are simulated: a typical one, which
    prefers popular items but differs from request to request; one that recommends the popular to everybody (the most
    to score); and one that gives all children of a node the same chance (the least).

    Args:
        trie: the catalog.
        interactions: the items of all training interactions, ``[interactions]``, int64.
        num_beams: beam widths K.
    """
    popular = _log_shares(trie, interactions)
    kinds = ((popular, TYPICAL), (popular, 1.0), (torch.zeros_like(popular), 1.0))
    return [_row(trie, kinds, width) for width in num_beams]


def _row(trie: ItemTrie, kinds: Sequence[tuple[Tensor, float]], num_beams: int) -> TrieRow:
    calls, tokens = [], []
    for log_shares, strength in kinds:
        target = SimulatedTarget(trie, log_shares, strength, NUM_REQUESTS)
        with torch.inference_mode():
            decoded = search(
                target,
                draft=None,
                drafter=TrieDrafter(MAX_NODES),
                verifier=StrictTopK(),
                num_beams=min(num_beams, trie.num_leaves),
                drop_finished=False,  # so that all that was scored is there to be counted
            )
        calls.append(decoded.target_calls)
        tokens.append(target.new_tokens)
    return TrieRow(num_beams, *(Spread.of(torch.cat(values), typical=values[0]) for values in (calls, tokens)))


def _log_shares(trie: ItemTrie, interactions: np.ndarray) -> Tensor:
    """Return the log of each node's share of its parent's interactions, each item counting for one more; ``[M]``."""
    counts = 1 + np.bincount(interactions, minlength=len(trie.items))
    before = torch.nn.functional.pad(torch.from_numpy(counts)[trie.items].cumsum(0), (1, 0))
    below = (before[trie.first_item + trie.num_items] - before[trie.first_item]).float()
    return (below / below[trie.parent]).log()


def conclude(rows: Sequence[TrieRow], num_levels: int) -> str:
    """Return a sentence on whether a learned draft is needed."""
    many = [row for row in rows if round(row.target_calls.mean, 1) > FEW_CALLS]
    if not many:
        worst = rows[-1]
        return (
            f"No learned draft is needed: TrieDrafter answers in about {worst.target_calls.mean:.1f} target calls and "
            f"scores about {worst.new_tokens.mean:.0f} new tokens per request at K = {worst.num_beams} (plain beam "
            f"search: {num_levels} calls)."
        )
    calls = ", ".join(f"{row.target_calls.mean:.1f} at K = {row.num_beams}" for row in many)
    return (
        f"A learned draft is needed: TrieDrafter takes more than {FEW_CALLS} target calls, {calls} (plain beam search: "
        f"{num_levels}), because the levels are too wide for {MAX_NODES} nodes per call."
    )
