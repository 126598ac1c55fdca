"""Plain beam search."""

from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select
from atspeed.decoding.scorer import PrefixScorer


class NoDrafter(Drafter):
    """Proposes nothing: plain beam search, one target call per level."""

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return no node; see :meth:`Drafter.propose`."""
        return Proposal(beams.nodes[:, :0], [])
