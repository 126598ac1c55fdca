"""Spends tokens by the price of a call, in widths that are set beforehand."""

import itertools

import numpy as np
import torch
from torch import Tensor

from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
from atspeed.decoding.drafters.model_drafter import draft_levels
from atspeed.decoding.drafters.plan import Array, Plan
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT


class PlannedDrafter(Drafter):
    """Proposes the beams of a search by the draft model, in the widths of a plan.

    What :class:`PriceAwareDrafter` becomes where shapes are fixed: a call costs what its padded size costs, so there is
    nothing to gain from choosing fewer nodes for a request, and choosing on the host would make it wait.

    Args:
        widths: nodes to propose by the depth of the beams and the level below them; see :func:`planned_widths`.
        device: of the models.
    """

    needs_draft = True

    def __init__(self, widths: Array, device: torch.device) -> None:
        self.widths = widths
        self._widths = torch.from_numpy(widths).to(device)  # [L, L], int64

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return the draft's beams; see :meth:`Drafter.propose`."""
        last = target.trie.num_levels - 1
        depth = target.trie.sizing.least(beams.depth)
        widths = self.widths[depth:, : max(last - depth, 0)].max(0, initial=0)
        planned = self._widths[beams.depth.clamp(max=last)]  # [B, L]

        def select_planned(level: int, nodes: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
            return _first(planned[:, level : level + 1], *select(nodes, scores, width))

        widths_that_pay = [int(width) for width in itertools.takewhile(bool, widths)]
        return draft_levels(beams, require_draft(draft, self), widths_that_pay, select_planned)


def planned_widths(plan: Plan, num_nodes: list[int]) -> Array:
    """Return the widths that are expected to save most, 0 where nothing pays: ``[L, L]``, int64.

    Args:
        plan: the prices.
        num_nodes: of each level of the catalog. No width is larger, and the level below the root may be complete.
    """
    num_levels = len(plan.tokens)
    chosen = np.zeros((num_levels, num_levels), dtype=np.int64)
    for depth in range(num_levels - 1):
        tokens, covered = plan.tokens[[depth]], np.ones((1, 1))
        for level in range(num_levels - 1 - depth):
            outlook = plan.outlook(np.array([depth]), level)
            gain = plan.expected_gain(outlook, tokens, covered)[0]
            width, coverage = outlook.widths[0, gain.argmax()], outlook.coverage[0, gain.argmax()]
            best = gain.max()
            if depth == level == 0:
                of_all = plan.gain(outlook, tokens, covered, np.array([num_nodes[:1]]), 1.0, plan.num_beams)[0, 0]
                if of_all >= best:
                    best, width, coverage = of_all, num_nodes[0], 1.0
            if best <= 0:
                break
            width = min(width, num_nodes[depth + level])
            chosen[depth, level] = width
            tokens, covered = tokens + width, covered * coverage
    return chosen


def _first(count: Tensor, nodes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first ``count`` ``[B, 1]`` of some nodes ``[B, N]`` and their scores, and padding for the others."""
    is_out = torch.arange(nodes.shape[1], device=nodes.device) >= count
    return nodes.masked_fill(is_out, ROOT), scores.masked_fill(is_out, -torch.inf)
