"""A draft model proposes the beams of its own search."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
from atspeed.decoding.scorer import PrefixScorer

SelectAtLevel = Callable[[int, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""As :data:`Select`, after the level below the beams, 0 for the first one."""


class ModelDrafter(Drafter):
    """Proposes the beams of a search by the draft model (AtSpeed, arXiv 2410.05165, section 3).

    It starts from the target's beams and their scores, and drafts ``gamma`` levels with ``draft_beams`` beams. Under
    sampling verification the beams of a level are drawn from the draft without replacement instead of being its best.

    Args:
        draft_beams: beam width N of the draft.
        gamma: levels to draft ahead.
    """

    needs_draft = True

    def __init__(self, draft_beams: int = 40, gamma: int = 3) -> None:
        require_at_least(1, draft_beams=draft_beams, gamma=gamma)
        self.draft_beams = draft_beams
        self.gamma = gamma

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return the draft's beams; see :meth:`Drafter.propose`."""
        depth = target.trie.sizing.least(beams.depth)
        widths = [self.draft_beams] * min(self.gamma, target.trie.num_levels - 1 - depth)
        return draft_levels(beams, require_draft(draft, self), widths, lambda level, *best: select(*best))


def draft_levels(beams: Beams, draft: PrefixScorer, widths: Sequence[int], select: SelectAtLevel) -> Proposal:
    """Return the beams of a search by the draft, from the target's beams and their scores.

    Args:
        beams: where the target's search stands.
        draft: the draft's scorer.
        widths: how many beams to select of each level.
        select: selects them.
    """
    nodes, scores, drawn = beams.nodes, beams.scores, []
    for level, width in enumerate(widths):
        draft.score(draft.trie.path(nodes).flatten(1) if level == 0 else nodes)
        children, child_scores = draft.candidates(nodes, scores, level)  # [B, N · C]
        # last codes are the draft's leaves: they are not drafted, also if another request is not so far
        child_scores = child_scores.masked_fill(draft.trie.is_leaf(children), -torch.inf)
        nodes, scores = select(level, children, child_scores, width)
        drawn.append((nodes, scores))
    return Proposal(torch.cat([beams.nodes[:, :0], *(level for level, _ in drawn)], dim=1), drawn)
