"""Alignment for coverage by regression: the draft's scores of likely prefixes should be the target's."""

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.losses.alignment_loss import AlignmentLoss, Prefixes


def score_error(draft_scores: Tensor, target_scores: Tensor, num_beams: int, margin: float, delta: float) -> Tensor:
    """Return the mean Huber error of the draft's scores, over the candidates that are near the target's beams.

    Near are those whose target score is at most ``margin`` below the target's K-th best: its beams, and what the draft
    could take for one.

    Args:
        draft_scores: the draft's cumulative log-probabilities of a level's candidates, ``[B, W]``; minus infinity
            where there is none.
        target_scores: the target's, the same.
        num_beams: K; with fewer candidates all are near.
        margin: in nats.
        delta: error in nats from which on the loss grows linearly.

    Returns:
        ``[B]``, float32, in nats².
    """
    exists = target_scores > -torch.inf
    kth = target_scores.topk(min(num_beams, target_scores.shape[1]), dim=1).values[:, -1:]  # [B, 1]
    near = exists & (target_scores >= kth - margin)
    # filled before the difference: between two infinities it has no gradient
    draft, target = (scores.masked_fill(~exists, 0.0) for scores in (draft_scores, target_scores))
    errors = torch.nn.functional.huber_loss(draft, target, reduction="none", delta=delta)
    return (errors * near).sum(1) / near.sum(1).clamp(min=1)


class ScoreRegression(AlignmentLoss):
    """:func:`score_error` at every level that is drafted.

    Whether the target's K beams are in the draft's best N is decided by cumulative scores around the K-th best, where
    a candidate has a probability of a few per mille. A divergence weighs errors by probability, so it hardly sees them;
    here each of these candidates counts the same.

    Args:
        num_beams: the beam width K that is served.
        margin: how far below the K-th best a candidate still counts, in nats.
        delta: error from which on the loss grows linearly, in nats.
    """

    compares_leaves = False

    def __init__(self, num_beams: int = 20, margin: float = 1.0, delta: float = 0.5) -> None:
        super().__init__()
        require_at_least(1, num_beams=num_beams)
        require_at_least(0, margin=margin)
        if delta <= 0:
            raise ValueError(f"delta is {delta}; expected more than 0")
        self.num_beams = num_beams
        self.margin = margin
        self.delta = delta

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        return score_error(*prefixes.candidate_scores(), self.num_beams, self.margin, self.delta)
