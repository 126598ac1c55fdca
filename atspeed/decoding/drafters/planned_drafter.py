"""Spends tokens by the price of a call, in widths that are set beforehand."""

import numpy as np
import torch
from torch import Tensor

from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
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
        draft = require_draft(draft, self)
        trie, nodes, scores, drawn = target.trie, beams.nodes, beams.scores, []
        depth = trie.sizing.least(beams.depth)
        planned = self._widths[beams.depth.clamp(max=trie.num_levels - 1)]  # [B, L]
        for level in range(trie.num_levels - 1 - depth):
            width = int(self.widths[depth:, level].max())
            if width == 0:
                break
            draft.score(trie.path(nodes).flatten(1) if level == 0 else nodes)
            children, child_scores = draft.candidates(nodes, scores, level)
            child_scores = child_scores.masked_fill(draft.trie.is_leaf(children), -torch.inf)
            nodes, scores = _first(planned[:, level : level + 1], *select(children, child_scores, width))
            drawn.append((nodes, scores))
        return Proposal(torch.cat([beams.nodes[:, :0], *(level for level, _ in drawn)], dim=1), drawn)


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
