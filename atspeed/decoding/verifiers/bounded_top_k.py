"""Relaxed top-K verification that bounds what it may have lost."""

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams, next_beams, select_top
from atspeed.decoding.drafters.drafter import Proposal
from atspeed.decoding.indexing import index_of
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.verifiers.verifier import Verifier, is_ready


class BoundedTopK(Verifier):
    r"""N-to-K verification that accepts a level also if beams of little probability have not been scored.

    Those beams are dropped with all that is below them, and the next best prefixes that have been scored, if there are
    any, take their places. For K = 3 and an ``epsilon`` of 0.05 (``x``: has been scored)::

        children of the beams    5     9     6     8     7
        probability              0.50  0.20  0.02  0.01  0.004
        scored                   x     x           x     x
        the K beams              5     9     6                  6 is 0.02 / 0.72 = 2.8 % of their mass: accepted
        what continues           5     9           8            loss_bound is log(0.02) now, if it was lower

    A level is accepted if

    - the beams that have not been scored hold at most ``epsilon`` of the probability of the level's K beams (both are
      known exactly: their parents have been scored), and
    - what remains has enough allowed semantic IDs below it for as many answers as strict verification returns.

    **Guarantee.** Let M be the highest score of a prefix that was dropped in the search of a request. A prefix never
    scores higher than the one that it continues, so at every depth this search and the strict one hold the same
    prefixes above M, and the answers that score above M are the first ones of the strict answer, in the same order.
    M is :attr:`Beams.loss_bound`. Shares of levels add up, so what a search loses altogether may exceed ``epsilon``;
    M bounds it all the same.

    Args:
        epsilon: share of a level's probability that may be dropped; 0 makes the same calls and gives the same answers
            as :class:`StrictTopK`.

    Raises:
        ValueError: if ``epsilon`` is negative, or 1 or more.
    """

    name = "bounded"

    def __init__(self, epsilon: float = 0.05) -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon is {epsilon}; expected 0 (as StrictTopK) to less than 1")
        self.epsilon = self.tolerance = epsilon

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
        last = target.trie.max_depth - sizing.least_depth - 1
        for ahead in range(last + 1):
            if not sizing.any(ready := is_ready(beams, target)):
                break
            following = next_beams(target, beams, ahead)
            if ahead < last:  # the last ones are complete
                following = self._drop_unscored(beams, following, target)
            beams = following.where(ready, beams, sizing)
        return beams

    def _drop_unscored(self, beams: Beams, following: Beams, target: PrefixScorer) -> Beams:
        """Return the beams of the next level without those that have not been scored, where that may be.

        Args:
            beams: the beams of a level, all scored.
            following: those of the next level under strict verification.
            target: the target's scorer.
        """
        unscored = ~target.is_scored(following.nodes)  # not the root, which pads them
        dropped_scores = following.scores.masked_fill(~unscored, -torch.inf)
        # In logarithms, so that no share underflows to 0 and epsilon = 0 drops nothing.
        share = dropped_scores.double().logsumexp(1) - following.scores.double().logsumexp(1)
        may_drop = unscored.any(1) & (share <= torch.full_like(share, self.epsilon).log())
        if not target.trie.sizing.any(may_drop):
            return following
        nodes, scores = select_top(*_scored_children(beams, target), beams.width)
        loss_bound = torch.maximum(beams.loss_bound, dropped_scores.amax(1))
        reduced = following._replace(nodes=nodes, scores=scores, loss_bound=loss_bound)
        finds_enough = count_answers(reduced, target) == count_answers(following, target)
        return reduced.where(may_drop & finds_enough, following, target.trie.sizing)


def _scored_children(beams: Beams, target: PrefixScorer) -> tuple[Tensor, Tensor]:
    """Return the children of beams that have been scored, and their scores, among all scored nodes ``[B, S]``.

    The slots are searched for children and not the children for slots, because they are fewer. Nodes that are no
    children of the beams score minus infinity.
    """
    nodes = target.nodes.clamp(min=0)  # unused slots become the root, which is no child
    beam, has_beam = index_of(target.trie.parent[nodes], beams.nodes)
    is_child = has_beam & (target.trie.depth(nodes) == beams.depth[:, None] + 1)  # what pads beams is no parent
    scores = beams.scores.gather(1, beam) + target.log_probs(nodes)
    return nodes, scores.masked_fill(~is_child, -torch.inf)


def count_answers(beams: Beams, target: PrefixScorer) -> Tensor:
    """Count the allowed semantic IDs below beams, up to the number that an answer still lacks; ``[B]``, int64."""
    return target.count_leaves(beams.nodes, beams.mask, most=(beams.leaf_scores == -torch.inf).sum(1))
