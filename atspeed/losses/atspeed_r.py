"""Alignment for relaxed sampling verification (AtSpeed-R)."""

from torch import Tensor

from atspeed.losses.alignment_loss import Prefixes, PrefixLoss


def total_variation(draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
    """Total variation distance ``½ Σ |q − p|``; ``[…, C]`` → ``[…]``. Arguments as in :class:`Prefixes`."""
    return 0.5 * (draft_log_probs.exp() - target_log_probs.exp()).abs().sum(-1)


class AtSpeedR(PrefixLoss):
    """AtSpeed-R: total variation, one minus the probability that a sampled proposal is accepted.

    A proposal drawn from q is accepted with probability ``min(1, p/q)``, on average ``1 − ½ Σ |q − p|`` (arXiv
    2410.05165, section 3.2).
    """

    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix; see :meth:`PrefixLoss.divergence`."""
        return total_variation(prefixes.draft_log_probs, prefixes.target_log_probs)
