"""Strict top-K verification."""

from torch import Tensor

from atspeed.decoding.beams import Beams, next_beams
from atspeed.decoding.drafters.drafter import Proposal
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.verifiers.verifier import Verifier, is_ready


class StrictTopK(Verifier):
    """N-to-K verification: a level is accepted when the target has scored all of its K beams.

    So the result is that of plain beam search of width K, whatever was proposed (AtSpeed, arXiv 2410.05165).
    """

    name = "strict"

    def advance(
        self,
        beams: Beams,
        target: PrefixScorer,
        draft: PrefixScorer | None,
        proposal: Proposal,
        seeds: Tensor,
    ) -> Beams:
        """Return the advanced beams; see :meth:`Verifier.advance`."""
        sizing = target.trie.sizing
        for ahead in range(target.trie.max_depth - sizing.least_depth):
            ready = is_ready(beams, target) if ahead else beams.is_open  # the call has scored their prefixes
            if ahead and not sizing.any(ready):
                break
            beams = next_beams(target, beams, ahead).where(ready, beams, sizing)
            if target.only_beams:
                break
        return beams
