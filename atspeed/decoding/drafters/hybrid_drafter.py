"""The catalog proposes narrow levels, a draft model chooses in a wide one."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafted_scores import scores_of
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
from atspeed.decoding.drafters.frontier import (
    Frontier,
    MaxNodes,
    check_budget,
    expand_complete_levels,
    needs_scoring,
    node_budget,
)
from atspeed.decoding.scorer import PrefixScorer


class HybridDrafter(Drafter):
    """The trie takes the narrow levels, the draft model chooses in the wide one.

    Levels that fit the budget are proposed complete, as by :class:`TrieDrafter`. In the first level that does not fit,
    the draft ranks the prefixes (by the target's scores of the beams, continued by its own; one draft call), and the
    best come with their complete subtrees as far as the budget allows. Where fewer than K subtrees would fit, the
    prefixes come alone.

    Args:
        max_nodes: see :class:`TrieDrafter`.
        extra_cost: see :class:`TrieDrafter`.
    """

    needs_draft = True

    def __init__(self, max_nodes: MaxNodes = 256, extra_cost: float = 0.5) -> None:
        check_budget(max_nodes, extra_cost)
        self.max_nodes = max_nodes
        self.extra_cost = extra_cost
        self.budget = 1 if max_nodes == "auto" else max_nodes

    def prepare(self, target: PreTrainedModel, draft: PreTrainedModel | None, tolerance: float | None) -> None:
        """Measure the budget if it is ``auto``."""
        self.budget = node_budget(self.max_nodes, self.extra_cost, target)

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return complete levels and the draft's choice below; see :meth:`Drafter.propose`."""
        draft = require_draft(draft, self)
        levels, frontier = expand_complete_levels(beams, target, self.budget)
        has_inner_children = target.trie.leads_on(frontier.nodes)
        frontier = frontier._replace(mask=frontier.mask & has_inner_children)
        if target.trie.sizing.any(frontier.mask):
            most = beams.width * draft.trie.num_levels + self.budget
            draft.score(self._prefixes_to_score(beams, levels, frontier, draft), most=most)
            candidates, scores = _ranked_children(beams, target, draft, frontier, self.budget)
            levels += _subtrees(candidates, scores, frontier.budget, self.budget, beams.width, target)
        return Proposal(torch.cat(levels, dim=1), [], most=self.budget)

    @staticmethod
    def _prefixes_to_score(beams: Beams, levels: list[Tensor], frontier: Frontier, draft: PrefixScorer) -> Tensor:
        """Return what the draft has to score before it ranks, in the requests that have something to rank."""
        prefixes = torch.cat([draft.trie.path(beams.nodes).flatten(1), *levels], dim=1)
        return prefixes * frontier.mask.any(1, keepdim=True)


def _ranked_children(
    beams: Beams, target: PrefixScorer, draft: PrefixScorer, frontier: Frontier, width: int
) -> tuple[Tensor, Tensor]:
    """Return the children of the frontier in the order of the draft, at most ``width``, and their scores."""
    scores = scores_of(frontier.nodes, beams, None, draft).masked_fill(~frontier.mask, -torch.inf)
    children, scores = draft.candidates(frontier.nodes, scores)  # [B, W · C]
    scores = scores.masked_fill(~needs_scoring(children, target), -torch.inf)
    return select_top(children, scores, min(width, children.shape[1]))


def _subtrees(
    candidates: Tensor, scores: Tensor, budget: Tensor, most: int, num_beams: int, target: PrefixScorer
) -> list[Tensor]:
    """Return the best candidates that fit, with their subtrees where K of these fit, level by level, root-padded.

    Args:
        candidates: nodes, best first, ``[B, W]``, int64.
        scores: minus infinity at padding, ``[B, W]``, float32.
        budget: nodes that may be proposed, ``[B, 1]``, int64.
        most: the largest budget of all.
        num_beams: K.
        target: the target's scorer.
    """
    trie, exists = target.trie, scores > -torch.inf
    fits_alone = exists & (exists.cumsum(1) <= budget)
    fits_with_subtree = exists & ((trie.subtree_size[candidates] * exists).cumsum(1) <= budget)
    with_subtrees = fits_with_subtree.sum(1, keepdim=True) >= num_beams  # [B, 1]
    levels = [candidates * torch.where(with_subtrees, fits_with_subtree, fits_alone)]
    nodes, mask = candidates, fits_with_subtree & with_subtrees
    for _ in range(trie.sizing.least_depth + 1, trie.num_calls - 1):  # candidates have one code more than the beams
        if not trie.sizing.any(mask):
            break
        nodes = trie.children(nodes, mask, limit=most).values
        mask = needs_scoring(nodes, target)
        levels.append(nodes * mask)
    return levels
