"""What every alignment loss is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class AlignmentLoss(nn.Module, ABC):
    """A divergence of draft from target at each prefix, over its legal children.

    A subclass is named by ``class_path`` in a config and implements :meth:`forward`, usually by calling a pure function
    of its file.
    """

    @abstractmethod
    def forward(self, draft_log_probs: Tensor, target_log_probs: Tensor) -> Tensor:
        """Return the loss at each prefix, ``[T]``, float32.

        Args:
            draft_log_probs: the draft's log-probabilities of a prefix's children, ``[T, C]``, float32, computed over
                the legal children alone (they sum to 1); minus infinity where there is no child.
            target_log_probs: the target's, of the same children; without gradient.
        """
