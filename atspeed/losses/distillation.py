"""Knowledge distillation: the baselines for AtSpeed's losses."""

import math

import torch
from torch import Tensor

from atspeed.losses.alignment_loss import Prefixes, PrefixLoss


def forward_kl(draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """Forward KL ``Σ p (log p − log q)``; ``[…, C]`` → ``[…]``. Arguments as in :class:`Prefixes`."""
    exists = target_log_probs > -torch.inf
    log_p, log_q = (values.masked_fill(~exists, 0.0) for values in (target_log_probs, draft_log_probs))
    return (target_log_probs.exp() * (log_p - log_q)).sum(-1)


def jensen_shannon(draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """Jensen–Shannon divergence, at most log 2; ``[…, C]`` → ``[…]``. Arguments as in :class:`Prefixes`."""
    exists = target_log_probs > -torch.inf
    log_p, log_q = (values.masked_fill(~exists, 0.0) for values in (target_log_probs, draft_log_probs))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)  # of filled values: between two infinities it has no gradient
    both = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
    return 0.5 * both.masked_fill(~exists, 0.0).sum(-1)


def sequence_cross_entropy(draft_log_probs: Tensor, next_shares: Tensor) -> Tensor:
    """Cross-entropy of the codes that the sequences continue with; ``[…, C]`` → ``[…]``.

    Arguments as in :class:`Prefixes`.
    """
    taken = next_shares > 0
    return -(next_shares * draft_log_probs.masked_fill(~taken, 0.0)).sum(-1)


class ForwardKL(PrefixLoss):
    """Forward KL from the target at every prefix: word-level knowledge distillation (Hinton et al. 2015)."""

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return forward_kl(prefixes.draft_log_probs, prefixes.target_log_probs)


class JensenShannon(PrefixLoss):
    """Jensen–Shannon divergence at every prefix: symmetric and bounded."""

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return jensen_shannon(prefixes.draft_log_probs, prefixes.target_log_probs)


class SequenceKD(PrefixLoss):
    """Cross-entropy on the sequences: sequence-level knowledge distillation (Kim and Rush 2016)."""

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return sequence_cross_entropy(prefixes.draft_log_probs, prefixes.next_shares)
