"""What every alignment loss is."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Prefixes(NamedTuple):  # no dataclass: DeepSpeed looks for a module's tensors in tuples
    """Prefixes of one level at which draft and target are compared, over the legal children of each.

    ``W`` is the largest number of prefixes of a request: those that its sequences pass through, each once. Where a
    child is missing, the log-probabilities of both models are minus infinity; a padding prefix has a share of 0, and
    otherwise the root's values. Make it with keywords.

    Attributes:
        draft_log_probs: the draft's log-probabilities of the children, normalised over them, ``[B, W, C]``, float32.
        target_log_probs: the target's, the same, without gradient.
        draft_scores: the draft's log-probability of the prefix over legal codes, ``[B, W]``, float32; 0 at the root.
        target_scores: the target's, the same, without gradient.
        shares: share of the request's sequences that pass through the prefix, ``[B, W]``, float32; they sum to 1.
        next_shares: share of those sequences that continues with each child, ``[B, W, C]``, float32; they sum to 1.
        level: level of the children, 0-based.
        num_levels: levels of a semantic ID, ``L``.
    """

    draft_log_probs: Tensor
    target_log_probs: Tensor
    draft_scores: Tensor
    target_scores: Tensor
    shares: Tensor
    next_shares: Tensor
    level: int
    num_levels: int

    def candidate_scores(self) -> tuple[Tensor, Tensor]:
        """Return the scores of all children, the draft's and the target's, ``[B, W · C]``, float32.

        Minus infinity where there is no child, and below padding.
        """
        padding = self.shares[..., None] == 0  # [B, W, 1]
        draft = (self.draft_scores[..., None] + self.draft_log_probs).masked_fill(padding, -torch.inf)  # [B, W, C]
        target = (self.target_scores[..., None] + self.target_log_probs).masked_fill(padding, -torch.inf)
        return draft.flatten(1), target.flatten(1)


class AlignmentLoss(nn.Module, ABC):
    """How far the draft is from the target, over the prefixes of some sequences.

    A subclass is named by ``class_path`` in a config; most derive from :class:`PrefixLoss`. The alignment module calls
    the loss once per level and sums over the levels. Losses that a loss holds as submodules and calls are its parts,
    which the callback ``LossParts`` logs.

    Attributes:
        compares_leaves: whether the loss wants the last level, too. Leaves need no drafting; without them, an
            alignment takes a third less time.
    """

    compares_leaves: bool = True

    @abstractmethod
    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request at this level, ``[B]``, float32, in nats."""


class PrefixLoss(AlignmentLoss):
    """A divergence at each prefix, independent of the other prefixes, and their weighted sum.

    A subclass implements :meth:`divergence`, usually by calling a pure function of its file.
    """

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        return (self.weights(prefixes) * self.divergence(prefixes)).sum(1)

    @abstractmethod
    def divergence(self, prefixes: Prefixes) -> Tensor:
        """Return the loss at each prefix, ``[B, W]``, float32, in nats; finite at padding prefixes, too."""

    def weights(self, prefixes: Prefixes) -> Tensor:
        """Return how much each prefix counts, ``[B, W]``; by default all sequences and all levels count the same."""
        return prefixes.shares / prefixes.num_levels
