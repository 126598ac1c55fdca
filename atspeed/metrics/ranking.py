"""Ranking metrics over recommended item lists."""

import torch
from torch import Tensor
from torchmetrics import Metric

from atspeed.checks import require_at_least


def hits(recommended: Tensor, truth: Tensor) -> Tensor:
    """Return which recommended items are true, bool ``[B, K]``.

    Args:
        recommended: distinct item indices, best first, ``[B, K]``, padded with -1.
        truth: distinct item indices, ``[B, R]``, padded with -1.
    """
    return ((recommended[..., None] == truth[:, None]) & (truth[:, None] >= 0)).any(-1)


def recall_at_k(recommended: Tensor, truth: Tensor, k: int) -> Tensor:
    """Recall@K of each request: hits among the first K over the number of *all* its true items; float32 ``[B]``.

    Arguments as in :func:`hits`; every request needs a true item.

    >>> recall_at_k(torch.tensor([[4, 7, 9]]), torch.tensor([[9, 7, 1, -1]]), k=2)
    tensor([0.3333])
    """
    return hits(recommended[:, :k], truth).sum(1) / (truth >= 0).sum(1)


def ndcg_at_k(recommended: Tensor, truth: Tensor, k: int) -> Tensor:
    """NDCG@K of each request, binary relevance; float32 ``[B]``.

    The gain of rank r (from 1) is ``1 / log2(r + 1)``; the ideal list has ``min(K, true items)`` hits. Arguments as in
    :func:`hits`; every request needs a true item.

    >>> ndcg_at_k(torch.tensor([[4, 7]]), torch.tensor([[7, -1]]), k=2)
    tensor([0.6309])
    """
    gains = 1 / torch.arange(2, k + 2, device=truth.device).log2()
    gained = (hits(recommended[:, :k], truth) * gains[: recommended[:, :k].shape[1]]).sum(1)
    return gained / gains.cumsum(0)[(truth >= 0).sum(1).clamp(max=k) - 1]


class _MeanOverRequests(Metric):
    """Mean of a value a request, over all requests and processes."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, k: int) -> None:
        super().__init__()
        require_at_least(1, k=k)
        self.k = k
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, values: Tensor) -> None:
        self.total += values.double().sum()
        self.count += len(values)

    def compute(self) -> Tensor:
        """Return the mean over requests."""
        return (self.total / self.count).float()


class RecallAtK(_MeanOverRequests):
    """Mean of :func:`recall_at_k`: hits over all true items of a request, averaged over requests.

    Args:
        k: length of the list.
    """

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`hits`."""
        self._add(recall_at_k(recommended, truth, self.k))


class NDCGAtK(_MeanOverRequests):
    """Mean of :func:`ndcg_at_k` over requests.

    Args:
        k: length of the list.
    """

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`hits`."""
        self._add(ndcg_at_k(recommended, truth, self.k))
