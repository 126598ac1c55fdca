"""Ranking metrics over recommended item lists.

Published numbers under one name differ in what they divide by and in what they call a hit; the arguments say which is
meant. In all of them ``recommended`` is ``[B, ≥ K]``, int64, best first, and ``truth`` is ``[B, R]``, int64, in time
order; both are padded with -1. An item that occurs twice in a list counts once, at its first rank. A request without
true items has no value: NaN.
"""

from typing import Literal

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.metrics.mean import MeanOverRequests

Denominator = Literal["truth", "reachable"]
Targets = Literal["any", "next"]


def _distinct(items: Tensor) -> Tensor:
    """Return where an item occurs for the first time in its list, ``[B, n]``, bool; False at padding."""
    seen_before = (items[:, :, None] == items[:, None]).tril(-1).any(-1)
    return (items >= 0) & ~seen_before


def hits(recommended: Tensor, truth: Tensor) -> Tensor:
    """Return which ranks of the lists hold a true item, each item once; bool, the shape of ``recommended``."""
    return (recommended[..., None] == truth[:, None]).any(-1) & _distinct(recommended)


def recall_at_k(recommended: Tensor, truth: Tensor, k: int, over: Denominator = "truth") -> Tensor:
    """Recall@K per request: hits among the first K, divided by the number of true items; float32 ``[B]``.

    Args:
        recommended: see the module.
        truth: see the module.
        k: length of the list.
        over: ``truth``: all true items, so a request with more than K of them cannot reach 1; ``reachable``: at
            most K of them, ``min(true items, K)``, also published as "capped recall" and as Recall@K.

    >>> recall_at_k(torch.tensor([[4, 7, 9]]), torch.tensor([[9, 7, 1, -1]]), k=2)
    tensor([0.3333])
    >>> recall_at_k(torch.tensor([[4, 7, 9]]), torch.tensor([[9, 7, 1, -1]]), k=2, over="reachable")
    tensor([0.5000])
    """
    num_true = _distinct(truth).sum(1)
    return hits(recommended[:, :k], truth).sum(1) / (num_true if over == "truth" else num_true.clamp(max=k))


def hit_rate_at_k(recommended: Tensor, truth: Tensor, k: int, targets: Targets = "any") -> Tensor:
    """HitRate@K per request: 1 if a target is among the first K, otherwise 0; float32 ``[B]``.

    Args:
        recommended: see the module.
        truth: see the module.
        k: length of the list.
        targets: ``any``: every true item is a target; ``next``: only the first one is, as in leave-one-out protocols,
            where it is also published as Recall@K.

    >>> hit_rate_at_k(torch.tensor([[4, 7]]), torch.tensor([[9, 7]]), k=2)
    tensor([1.])
    >>> hit_rate_at_k(torch.tensor([[4, 7]]), torch.tensor([[9, 7]]), k=2, targets="next")
    tensor([0.])
    """
    truth = truth if targets == "any" else truth[:, :1]
    return _or_nan(hits(recommended[:, :k], truth).any(1).float(), truth)


def ndcg_at_k(recommended: Tensor, truth: Tensor, k: int) -> Tensor:
    """NDCG@K per request, binary relevance; float32 ``[B]``.

    The gain of rank r (from 1) is ``1 / log2(r + 1)``; the ideal list has ``min(K, true items)`` hits.

    >>> ndcg_at_k(torch.tensor([[4, 7]]), torch.tensor([[7, -1]]), k=2)
    tensor([0.6309])
    """
    gains = 1 / torch.arange(2, k + 2, device=truth.device).log2()
    gained = (hits(recommended[:, :k], truth) * gains[: recommended[:, :k].shape[1]]).sum(1)
    ideal = torch.nn.functional.pad(gains.cumsum(0), (1, 0))  # of 0 … K hits
    return gained / ideal[_distinct(truth).sum(1).clamp(max=k)]


def mrr_at_k(recommended: Tensor, truth: Tensor, k: int) -> Tensor:
    """MRR@K per request: one over the rank (from 1) of the first hit among the first K, 0 without; float32 ``[B]``.

    >>> mrr_at_k(torch.tensor([[4, 7, 9]]), torch.tensor([[9, 7]]), k=3)
    tensor([0.5000])
    """
    found = hits(recommended[:, :k], truth)
    ranks = torch.arange(1, found.shape[1] + 1, device=truth.device)
    first = found & (found.cumsum(1) == 1)
    return _or_nan((first / ranks).sum(1), truth)


def _or_nan(values: Tensor, truth: Tensor) -> Tensor:
    return values.masked_fill(~(truth >= 0).any(1), torch.nan)


class _MeanAtK(MeanOverRequests):
    def __init__(self, k: int) -> None:
        super().__init__()
        require_at_least(1, k=k)
        self.k = k


class RecallAtK(_MeanAtK):
    """Mean of :func:`recall_at_k` over requests.

    Args:
        k: length of the list.
        over: what hits are divided by; see :func:`recall_at_k`.
    """

    def __init__(self, k: int, over: Denominator = "truth") -> None:
        super().__init__(k)
        self.over = over

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`recall_at_k`."""
        self.add(recall_at_k(recommended, truth, self.k, self.over))


class HitRateAtK(_MeanAtK):
    """Mean of :func:`hit_rate_at_k` over requests.

    Args:
        k: length of the list.
        targets: which true items count; see :func:`hit_rate_at_k`.
    """

    def __init__(self, k: int, targets: Targets = "any") -> None:
        super().__init__(k)
        self.targets = targets

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`hit_rate_at_k`."""
        self.add(hit_rate_at_k(recommended, truth, self.k, self.targets))


class NDCGAtK(_MeanAtK):
    """Mean of :func:`ndcg_at_k` over requests.

    Args:
        k: length of the list.
    """

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`ndcg_at_k`."""
        self.add(ndcg_at_k(recommended, truth, self.k))


class MRRAtK(_MeanAtK):
    """Mean of :func:`mrr_at_k` over requests.

    Args:
        k: length of the list.
    """

    def update(self, recommended: Tensor, truth: Tensor) -> None:
        """Add requests; arguments as in :func:`mrr_at_k`."""
        self.add(mrr_at_k(recommended, truth, self.k))
