"""Beams and the one step of beam search."""

from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.sizing import Measured
from atspeed.decoding.trie import ROOT, ItemTrie


class Beams(NamedTuple):
    """Where the search of a batch of requests stands: prefixes to extend, and complete semantic IDs found so far.

    Both are best first, and padded with the root at minus infinity.

    Attributes:
        nodes: the prefixes, ``[B, K]``, int64, at the start ``[B, 1]``; all of a request are equally deep.
        scores: sum of the log-probabilities of a prefix's codes, float32, of the same shape.
        leaves: the complete semantic IDs, ``[B, K]``, int64.
        leaf_scores: their scores, ``[B, K]``, float32.
        depth: of the prefixes, ``[B]``, int64.
        loss_bound: what scores above it is as in plain beam search of width K: the highest score of a prefix that was
            dropped, minus infinity if none was, ``[B]``, float32.
    """

    nodes: Tensor
    scores: Tensor
    leaves: Tensor
    leaf_scores: Tensor
    depth: Tensor
    loss_bound: Tensor

    @classmethod
    def at_root(cls, batch_size: int, width: int, device: torch.device) -> "Beams":
        """Return the beams that every search starts from: the empty prefix."""
        leaves = torch.full((batch_size, width), ROOT, device=device)
        root, score = leaves[:, :1], torch.zeros(batch_size, 1, device=device)
        leaf_scores = torch.full(leaves.shape, -torch.inf, device=device)
        return cls(root, score, leaves, leaf_scores, depth=root[:, 0], loss_bound=leaf_scores[:, 0])

    @property
    def width(self) -> int:
        """The beam width K."""
        return self.leaves.shape[1]

    @property
    def mask(self) -> Tensor:
        """True where there is a prefix, the shape of ``nodes``."""
        return self.scores > -torch.inf

    @property
    def is_open(self) -> Tensor:
        """True where a prefix may still become one of the K best semantic IDs, ``[B]``."""
        return self.scores[:, 0] > self.leaf_scores[:, -1]

    def keep(self, rows: Tensor) -> "Beams":
        """Return the beams of some requests."""
        return Beams(*(part[rows] for part in self))

    def where(self, rows: Tensor, other: "Beams", sizing: Measured) -> "Beams":
        """Return these beams for the requests where ``rows`` (bool) is True, and the other ones elsewhere."""
        if sizing.all(rows):  # by far the most common case
            return self
        return Beams(*(torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(self, other, strict=True)))


def select_top(nodes: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the ``width`` best of some candidates, best first; ties go to the smaller node.

    Score and node are packed into one integer that orders as the pair does, so that one ``topk`` finds both. The bits
    of a float that is not negative order as the float, so the upper half of a key is the negated score::

        score    node    key (upper half, lower half)
        -0.5     5       3F000000 00000005    0.5: the best
        -1.0     4       3F800000 00000004    1.0, and the smaller node of the two
        -1.0     7       3F800000 00000007
        -inf     0       7F800000 00000000    padding: always last

    Scores are log-probabilities; one that rounding lifted above 0 counts as 0, so that the order holds for any input.

    Args:
        nodes: ``[B, W]``, int64, below 2³².
        scores: ``[B, W]``, float32; candidates of minus infinity are padding.
        width: how many to select.

    Returns:
        nodes and scores, ``[B, width]``, padded with the root at minus infinity.
    """
    missing = width - nodes.shape[1]
    if missing > 0:
        nodes = torch.nn.functional.pad(nodes, (0, missing), value=ROOT)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    scores = scores.clamp(max=0)
    nodes = nodes.masked_fill(scores == -torch.inf, ROOT)
    keys = nodes.add(scores.abs().view(torch.int32), alpha=1 << 32)
    best = keys.topk(width, dim=1, largest=False).indices
    return nodes.gather(1, best), scores.gather(1, best)


def advance_beams(beams: Beams, trie: ItemTrie, nodes: Tensor, scores: Tensor) -> Beams:
    """Return the beams one code further, given candidates for it, best first.

    As in ``transformers.generate``, what ends among the first K candidates is a result, and the K best others are the
    new prefixes.

    Args:
        beams: the beams so far.
        trie: the catalog.
        nodes: candidates, ``[B, W]``, int64; as many as beams if semantic IDs have one length, else K or more.
        scores: theirs, ``[B, W]``, float32.
    """
    width = beams.width
    if trie.has_one_length:  # all candidates of a request end or none does, so nothing is to be merged
        depth = beams.depth + 1
        ends = depth == trie.max_depth
        if trie.sizing.any(ends):
            ends = ends[:, None]
            beams = beams._replace(
                leaves=torch.where(ends, nodes, beams.leaves), leaf_scores=torch.where(ends, scores, beams.leaf_scores)
            )
            nodes, scores = nodes.masked_fill(ends, ROOT), scores.masked_fill(ends, -torch.inf)
        return beams._replace(nodes=nodes, scores=scores, depth=depth)
    ends = trie.is_leaf(nodes)
    leaves = select_top(
        torch.cat([beams.leaves, nodes[:, :width]], dim=1),
        torch.cat([beams.leaf_scores, scores[:, :width].masked_fill(~ends[:, :width], -torch.inf)], dim=1),
        width,
    )
    prefixes = select_top(nodes, scores.masked_fill(ends, -torch.inf), width)
    return Beams(*prefixes, *leaves, beams.depth + 1, beams.loss_bound)


def next_beams(scorer: PrefixScorer, beams: Beams, ahead: int = 0) -> Beams:
    """Return the beams one code further, all of whose prefixes the scorer has scored.

    Args:
        scorer: the scorer.
        beams: the beams.
        ahead: how many levels they are below those of the round at least.
    """
    num_wanted = beams.width if scorer.trie.has_one_length else 2 * beams.width  # up to K of the best may end
    candidates = select_top(*scorer.candidates(beams.nodes, beams.scores, ahead, num_wanted), num_wanted)
    return advance_beams(beams, scorer.trie, *candidates)


def beams_by_depth(scorer: PrefixScorer, num_beams: int) -> list[Beams]:
    """Return the beams of plain beam search at the depths 0, 1, … L - 1."""
    beams = [Beams.at_root(len(scorer.prompts), num_beams, scorer.prompts.device)]
    for _ in range(scorer.trie.num_levels - 1):
        scorer.score(beams[-1].nodes)
        beams.append(next_beams(scorer, beams[-1]))
    return beams
