"""The catalog proposes narrow levels, a draft model chooses in a wide one."""

import torch

from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafter import Proposal, Select
from atspeed.decoding.drafters.frontier import draft_scores_of, needs_scoring, require_draft
from atspeed.decoding.drafters.trie_drafter import TrieDrafter
from atspeed.decoding.scorer import PrefixScorer


class HybridDrafter(TrieDrafter):
    """The trie takes the narrow levels, the draft model chooses in the wide one.

    Levels that fit the budget are proposed whole, as by :class:`TrieDrafter`. In the first level that does not fit, the
    draft ranks the prefixes (by the target's scores of the beams, continued by its own; one draft call), and the best
    come with their whole subtrees as far as the budget goes. Where fewer than K subtrees would fit, the prefixes come
    alone.

    Args:
        max_nodes: see :class:`TrieDrafter`.
        extra_cost: see :class:`TrieDrafter`.
    """

    needs_draft = True

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return whole levels and the draft's choice below; see :meth:`Drafter.propose`."""
        draft = require_draft(draft, self)
        trie = target.trie
        levels, (nodes, mask), left = self._whole_levels(beams, target)
        mask = mask & (trie.subtree_size[nodes] > 1)  # something below is left to score
        if not mask.any():
            return Proposal(torch.cat(levels, dim=1), [])
        draft.score(torch.cat([trie.path(beams.nodes).flatten(1), *levels], dim=1) * mask.any(1, keepdim=True))
        children, log_probs = draft.children(nodes)  # [B, W, C]
        scores = draft_scores_of(nodes, beams, draft).masked_fill(~mask, -torch.inf)[..., None] + log_probs
        children, scores = children.flatten(1), scores.flatten(1)
        scores = scores.masked_fill(~needs_scoring(children, target), -torch.inf)
        chosen, scores = select_top(children, scores, min(self.budget, children.shape[1]))
        mask = scores > -torch.inf
        fits = mask & ((trie.subtree_size[chosen] * mask).cumsum(1) <= left)
        closes = fits.sum(1, keepdim=True) >= beams.width
        levels.append(chosen * torch.where(closes, fits, mask & (mask.cumsum(1) <= left)))
        mask = fits & closes
        while mask.any():
            subtree = trie.children(chosen, mask)
            chosen, mask = subtree.values, needs_scoring(subtree.values, target)
            levels.append(chosen * mask)
        return Proposal(torch.cat(levels, dim=1), [])
