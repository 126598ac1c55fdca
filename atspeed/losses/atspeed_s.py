"""Alignment for strict top-K verification (AtSpeed-S)."""

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.losses.alignment_loss import AlignmentLoss, Prefixes, PrefixLoss


def top_k_reverse_kl(
    draft_log_probs: Tensor, target_log_probs: Tensor, num_beams: int, remainder: bool = True
) -> Tensor:
    """Reverse KL over the draft's own top-K children, ``Σ_{topK of q} q (log q − log p)``; ``[…, C]`` → ``[…]``.

    With ``remainder``, all other children together are one more outcome, ``q_r (log q_r − log p_r)``. Without it the
    sum is no divergence: it falls below 0 as the draft moves mass out of its own top-K, where nothing counts it
    (docs/notes.md has what that does to acceptance). Arguments as in :class:`Prefixes`.
    """
    top_log_probs, top, exists = _top(draft_log_probs, num_beams)
    top_target = target_log_probs.gather(-1, top).masked_fill(~exists, 0.0)
    divergence = (top_log_probs.exp() * (top_log_probs - top_target)).masked_fill(~exists, 0.0).sum(-1)
    if not remainder or draft_log_probs.shape[-1] <= num_beams:
        return divergence
    draft_remainder, target_remainder = (
        values.scatter(-1, top, -torch.inf).exp().sum(-1) for values in (draft_log_probs, target_log_probs)
    )
    tiny = torch.finfo(draft_remainder.dtype).tiny
    ratio = draft_remainder.clamp(min=tiny).log() - target_remainder.clamp(min=tiny).log()
    return divergence + draft_remainder * ratio


def top_k_density(draft_log_probs: Tensor, target_log_probs: Tensor, num_beams: int) -> Tensor:
    """Density regularisation ``p_(K) · H_K(q)``; ``[…, C]`` → ``[…]``.

    ``p_(K)`` is the target's probability of *its own* K-th best child (0 where there are fewer children: then all are
    beams, and none can be missed); ``H_K(q) = −Σ_{topK of q} q log q``. Arguments as in :class:`Prefixes`.
    """
    if draft_log_probs.shape[-1] < num_beams:  # still part of the graph: ZeRO-3's processes must agree on it
        kth_target_probability = draft_log_probs.new_zeros(draft_log_probs.shape[:-1])
    else:
        kth_target_probability = target_log_probs.topk(num_beams, dim=-1).values[..., -1].exp()
    top_log_probs, _, _ = _top(draft_log_probs, num_beams)
    return -kth_target_probability * (top_log_probs.exp() * top_log_probs).sum(-1)


def _top(log_probs: Tensor, num_beams: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities and indices of the best children, and which of them exist, ``[…, ≤ K]`` each."""
    values, index = log_probs.topk(min(num_beams, log_probs.shape[-1]), dim=-1)
    exists = values > -torch.inf
    return values.masked_fill(~exists, 0.0), index, exists  # filled before any product: 0 · inf has no gradient


class ReverseKL(PrefixLoss):
    """Reverse KL over the draft's top-K: corrects the draft where it puts its own mass.

    Args:
        num_beams: the beam width K that is served.
        remainder: count the mass outside the top-K as one outcome; without it, the formula as the paper prints it.
    """

    def __init__(self, num_beams: int = 20, remainder: bool = True) -> None:
        super().__init__()
        require_at_least(1, num_beams=num_beams)
        self.num_beams = num_beams
        self.remainder = remainder

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return top_k_reverse_kl(prefixes.draft_log_probs, prefixes.target_log_probs, self.num_beams, self.remainder)


class DensityRegularization(PrefixLoss):
    """Sharpens the draft where the target's K-th child is a close call; a part of :class:`AtSpeedS`.

    Args:
        num_beams: the beam width K that is served.
    """

    def __init__(self, num_beams: int = 20) -> None:
        super().__init__()
        require_at_least(1, num_beams=num_beams)
        self.num_beams = num_beams

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return top_k_density(prefixes.draft_log_probs, prefixes.target_log_probs, self.num_beams)


class AtSpeedS(AlignmentLoss):
    """AtSpeed-S: reverse KL plus density over the draft's top-K (arXiv 2410.05165, section 3.1).

    Strict verification accepts a level when the target's K beams are all among the draft's, so the draft should be
    right where it puts its own mass (reverse KL) and sharp where the target's K-th beam is a close call (density).

    Args:
        num_beams: the beam width K that is served.
        remainder: see :class:`ReverseKL`.
    """

    def __init__(self, num_beams: int = 20, remainder: bool = True) -> None:
        super().__init__()
        self.reverse_kl = ReverseKL(num_beams, remainder)
        self.density = DensityRegularization(num_beams)

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        return self.reverse_kl(prefixes) + self.density(prefixes)
