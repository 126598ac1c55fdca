"""Means over requests."""

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverRequests(Metric):
    """Mean of one value per request, over all requests and processes; a subclass's ``update`` adds the values."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Tensor) -> None:
        """Add the values of a batch, ``[B]``, any float dtype."""
        self.total += values.double().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean, float32, a scalar."""
        return (self.total / self.count).float()
