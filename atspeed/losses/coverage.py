"""Alignment for coverage: the target's K beams should lie in the draft's best N."""

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.losses.alignment_loss import AlignmentLoss, Prefixes
from atspeed.losses.distillation import ForwardKL


def coverage_margin(draft_scores: Tensor, target_scores: Tensor, num_beams: int, draft_beams: int) -> Tensor:
    """How far the target's K best candidates are from the draft's best N: ``mean softplus(s_(N) − s)``.

    ``s`` is the draft's score of a candidate that the target ranks among its best K, ``s_(N)`` the draft's N-th best
    score, taken as a constant, so that the loss lifts what is missed instead of pushing everything else down.

    Args:
        draft_scores: the draft's cumulative log-probabilities of a level's candidates, ``[B, W]``; minus infinity
            where there is none.
        target_scores: the target's, the same.
        num_beams: K.
        draft_beams: N; with fewer candidates than that none can be missed, and the loss is 0.

    Returns:
        ``[B]``, float32, in nats.
    """
    if draft_scores.shape[1] < max(draft_beams, num_beams):
        # still part of the graph: ZeRO-3's processes must agree on it
        return 0.0 * draft_scores.masked_fill(draft_scores == -torch.inf, 0.0).sum(1)
    threshold = draft_scores.detach().topk(draft_beams, dim=1).values[:, -1:]  # minus infinity if there are fewer
    beam_scores, beams = target_scores.topk(num_beams, dim=1)
    gap = (threshold - draft_scores.gather(1, beams)).masked_fill(beam_scores == -torch.inf, -torch.inf)
    return torch.nn.functional.softplus(gap).mean(1)


class JointForwardKL(ForwardKL):
    """Forward KL in which a prefix is weighted by its probability under the target; a part of :class:`Coverage`."""

    def weights(self, prefixes: Prefixes) -> Tensor:
        """Return the target's probability of each prefix, ``[B, W]``."""
        return prefixes.target_scores.exp() * (prefixes.shares > 0)


class CoverageMargin(AlignmentLoss):
    """:func:`coverage_margin` of a level's candidates; a part of :class:`Coverage`.

    Args:
        num_beams: the beam width K that is served.
        draft_beams: the draft width N that should cover them.
    """

    def __init__(self, num_beams: int = 20, draft_beams: int = 80) -> None:
        super().__init__()
        require_at_least(1, num_beams=num_beams)
        require_at_least(num_beams, draft_beams=draft_beams)
        self.num_beams = num_beams
        self.draft_beams = draft_beams

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        if prefixes.level == prefixes.num_levels - 1:  # leaves need no drafting
            return torch.zeros_like(prefixes.draft_scores[:, 0])
        return coverage_margin(*prefixes.candidate_scores(), self.num_beams, self.draft_beams)


class Coverage(AlignmentLoss):
    """Forward KL between the joint distributions of prefixes, and a margin at the draft's N-th best.

    Strict verification needs all K beams of the target, ranked by their *cumulative* scores, in the draft's best N. A
    mean over prefixes ignores that: it counts an unlikely prefix as much as a likely one. Here the weight of a prefix
    is its probability p under the target. By the chain rule this makes the sum over levels the KL of the joint
    distributions, ``Σ_levels Σ_prefix p(prefix) KL(p(·|prefix) ‖ q(·|prefix))``, on the prefixes of the target's
    beams. :func:`coverage_margin` lifts those beams that the draft would miss.

    Args:
        num_beams: the beam width K that is served.
        draft_beams: the draft width N that should cover them.
        margin: weight of the margin.
    """

    def __init__(self, num_beams: int = 20, draft_beams: int = 80, margin: float = 1.0) -> None:
        super().__init__()
        require_at_least(0, margin=margin)
        self.divergence = JointForwardKL()
        self.margin = CoverageMargin(num_beams, draft_beams)
        self.margin_weight = margin

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        return self.divergence(prefixes) + self.margin_weight * self.margin(prefixes)
