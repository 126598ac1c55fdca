"""Alignment for strict top-K verification (AtSpeed-S)."""

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.losses.base import AlignmentLoss


def top_k_reverse_kl(draft_log_probs: Tensor, target_log_probs: Tensor, num_beams: int) -> Tensor:
    """Reverse KL over the draft's own top-K children, ``Σ_{topK of q} q (log q − log p)``; ``[T, C]`` → ``[T]``.

    Arguments as in :meth:`AlignmentLoss.forward`.
    """
    top_log_probs, top = draft_log_probs.topk(min(num_beams, draft_log_probs.shape[-1]), dim=-1)
    exists = top_log_probs > -torch.inf
    top_log_probs = top_log_probs.masked_fill(~exists, 0.0)  # before the product: 0 · inf has no gradient
    ratio = top_log_probs - target_log_probs.gather(-1, top).masked_fill(~exists, 0.0)
    return (top_log_probs.exp() * ratio).masked_fill(~exists, 0.0).sum(-1)


def top_k_density(draft_log_probs: Tensor, target_log_probs: Tensor, num_beams: int) -> Tensor:
    """Density regularisation ``p_(K) · H_K(q)``; ``[T, C]`` → ``[T]``.

    ``p_(K)`` is the target's probability of *its own* K-th best child (0 where there are fewer children: then all are
    beams, and none can be missed); ``H_K(q) = −Σ_{topK of q} q log q``. Arguments as in
    :meth:`AlignmentLoss.forward`.
    """
    if draft_log_probs.shape[-1] < num_beams:
        return draft_log_probs.new_zeros(draft_log_probs.shape[:-1])
    kth_target_probability = target_log_probs.topk(num_beams, dim=-1).values[..., -1].exp()
    top_log_probs = draft_log_probs.topk(num_beams, dim=-1).values
    exists = top_log_probs > -torch.inf
    top_log_probs = top_log_probs.masked_fill(~exists, 0.0)
    entropy = -(top_log_probs.exp() * top_log_probs).sum(-1)
    return kth_target_probability * entropy


class AtSpeedS(AlignmentLoss):
    """AtSpeed-S: reverse KL plus density over the draft's top-K (arXiv 2410.05165, section 3.1).

    Strict verification accepts a level when the target's K beams are all among the draft's, so the draft is to be
    right where it puts its own mass (reverse KL) and sharp where the target's K-th beam is a close call (density).

    Args:
        num_beams: the beam width K that is served.
    """

    def __init__(self, num_beams: int = 20) -> None:
        super().__init__()
        require_at_least(1, num_beams=num_beams)
        self.num_beams = num_beams

    def forward(self, draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
        """Return the loss at each prefix; see :meth:`AlignmentLoss.forward`."""
        arguments = draft_log_probs, target_log_probs, self.num_beams
        return top_k_reverse_kl(*arguments) + top_k_density(*arguments)
