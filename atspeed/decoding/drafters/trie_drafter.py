"""The catalog proposes, without any model."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select
from atspeed.decoding.drafters.frontier import (
    Frontier,
    MaxNodes,
    beam_above,
    check_budget,
    expand_complete_levels,
    needs_scoring,
    node_budget,
)
from atspeed.decoding.scorer import PrefixScorer


class TrieDrafter(Drafter):
    """Proposes all legal descendants of the beams, without any model.

    Level by level, as long as complete levels fit the node budget. Of the next level, if at least half of it fits,
    those nodes are proposed that would score best if all items below a beam were equally likely. A wider level is left
    out, and so is one from the root, where no beam has a score yet: guessing K beams from so little rarely succeeds.

    Args:
        max_nodes: nodes to propose per request and call at most, or ``auto``: the largest tree whose target call costs
            at most ``extra_cost`` more than a call for one node, measured once for a target on its device.
        extra_cost: what ``auto`` may cost, as a share of the smallest call.
    """

    def __init__(self, max_nodes: MaxNodes = 256, extra_cost: float = 0.5) -> None:
        check_budget(max_nodes, extra_cost)
        self.max_nodes = max_nodes
        self.extra_cost = extra_cost
        self.budget = 1 if max_nodes == "auto" else max_nodes

    def prepare(self, target: PreTrainedModel, draft: PreTrainedModel | None, tolerance: float | None) -> None:
        """Measure the budget if it is ``auto``."""
        self.budget = node_budget(self.max_nodes, self.extra_cost, target)

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return descendants; see :meth:`Drafter.propose`."""
        trie = target.trie
        if trie.sizing.least(beams.depth) == 0 and trie.num_first > self.budget:  # no beam has a score yet
            return Proposal(beams.nodes[:, :0], [])
        levels, frontier = expand_complete_levels(beams, target, self.budget)
        levels += self._best_of_next_level(beams, target, frontier)
        return Proposal(torch.cat(levels, dim=1), [], most=self.budget)

    def _best_of_next_level(self, beams: Beams, target: PrefixScorer, frontier: Frontier) -> list[Tensor]:
        """Return the likeliest nodes below the frontier ``[B, W]`` where half of them fit; an empty list for none."""
        trie = target.trie
        half_fits = (trie.num_children[frontier.nodes] * frontier.mask).sum(1, keepdim=True) <= 2 * frontier.budget
        has_inner_children = trie.leads_on(frontier.nodes)
        parent_mask = frontier.mask & half_fits & has_inner_children & (beams.depth > 0)[:, None]
        if not trie.sizing.any(parent_mask):
            return []
        children = trie.children(frontier.nodes, parent_mask, limit=2 * self.budget).values
        beam = beam_above(children, beams, trie)
        share = trie.num_items[children] / trie.num_items[beams.nodes].gather(1, beam)
        scores = beams.scores.gather(1, beam) + share.log()
        scores = scores.masked_fill(~needs_scoring(children, target), -torch.inf)
        chosen, scores = select_top(children, scores, min(self.budget, scores.shape[1]))
        return [chosen * ((scores > -torch.inf).cumsum(1) <= frontier.budget)]
