"""Beams and the one step of beam search."""

from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT


class Beams(NamedTuple):
    """The best prefixes of a batch of requests, best first.

    Attributes:
        nodes: ``[B, K]``, int64; root where there are fewer than ``K`` prefixes.
        scores: sum of the log-probabilities of a prefix's codes, ``[B, K]``, float32; minus infinity at padding.
    """

    nodes: Tensor
    scores: Tensor

    def keep(self, rows: Tensor) -> "Beams":
        """Return the beams of some requests."""
        return Beams(self.nodes[rows], self.scores[rows])


def select_top(nodes: Tensor, scores: Tensor, width: int) -> Beams:
    """Return the ``width`` best of ``[B, W]`` candidates, best first; ties go to the smaller node.

    Candidates of minus infinity are padding.
    """
    missing = width - nodes.shape[1]
    if missing > 0:
        nodes = torch.nn.functional.pad(nodes, (0, missing), value=ROOT)
        scores = torch.nn.functional.pad(scores, (0, missing), value=-torch.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :width]
    nodes, scores = nodes.gather(1, order), scores.gather(1, order)
    return Beams(nodes.masked_fill(scores == -torch.inf, ROOT), scores)


def first_beams(scorer: PrefixScorer, width: int) -> Beams:
    """Return the best prefixes of one code."""
    children, log_probs = scorer.root_children()
    return select_top(children.flatten(1), log_probs.flatten(1), width)


def next_beams(scorer: PrefixScorer, beams: Beams, width: int) -> Beams:
    """Return the best prefixes that are one code longer than ``beams``, all of which the scorer has scored."""
    order = beams.nodes.argsort(1)  # in node order, so that a stable sort breaks ties by node
    children, log_probs = scorer.children(beams.nodes.gather(1, order))
    scores = beams.scores.gather(1, order)[..., None] + log_probs  # [B, K, C]
    return select_top(children.flatten(1), scores.flatten(1), width)
