"""Losses made of losses."""

from torch import Tensor, nn

from atspeed.losses.alignment_loss import AlignmentLoss, Prefixes


class WeightedSum(AlignmentLoss):
    """A weighted sum of losses.

    Args:
        losses: the terms.
        weights: a weight for each term; all 1 if not given.
        level_weights: a factor for each level, on the sum of the terms; all 1 if not given.

    Raises:
        ValueError: if there is no term, or the weights are negative or not one for each term.
    """

    def __init__(
        self,
        losses: list[AlignmentLoss],
        weights: list[float] | None = None,
        level_weights: list[float] | None = None,
    ) -> None:
        super().__init__()
        weights = [1.0] * len(losses) if weights is None else weights
        if not losses or len(weights) != len(losses):
            raise ValueError(f"WeightedSum has {len(losses)} losses and {len(weights)} weights; expected one for each")
        if min(*weights, *(level_weights or [0.0]), 0) < 0:
            raise ValueError(f"WeightedSum has weights {weights} and level_weights {level_weights}; expected 0 or more")
        self.losses = nn.ModuleList(losses)
        self.term_weights = weights
        self.level_weights = level_weights
        self.compares_leaves = any(loss.compares_leaves for loss in losses)

    def forward(self, prefixes: Prefixes) -> Tensor:
        """Return the loss of each request; see :meth:`AlignmentLoss.forward`."""
        if self.level_weights is not None and len(self.level_weights) != prefixes.num_levels:
            raise ValueError(
                f"level_weights has {len(self.level_weights)} entries, a semantic ID {prefixes.num_levels} levels"
            )
        terms = [weight * loss(prefixes) for weight, loss in zip(self.term_weights, self.losses, strict=True)]
        return (1.0 if self.level_weights is None else self.level_weights[prefixes.level]) * sum(terms)
