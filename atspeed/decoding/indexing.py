"""Where values stand in a list: the one search that trees, slots and proposals need."""

import torch
from torch import Tensor

LARGEST_SCAN = 1 << 14  # comparisons in a row; from about there on, sorting is faster on a CPU


def index_of(values: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Find each value of a row among the candidates of the same row.

    Args:
        values: ``[B, K]``, int64.
        candidates: ``[B, W]``, int64.

    Returns:
        the index of the first equal candidate, ``[B, K]``, int64, 0 where there is none; and whether there is one,
        ``[B, K]``, bool.

    >>> import torch
    >>> index, found = index_of(torch.tensor([[7, 5, 6]]), torch.tensor([[5, 7, 7]]))
    >>> index.tolist(), found.tolist()
    ([[1, 0, 0]], [[True, True, False]])
    """
    if candidates.shape[1] == 0:
        return torch.zeros_like(values), torch.zeros_like(values, dtype=torch.bool)
    if values.shape[1] * candidates.shape[1] <= LARGEST_SCAN:
        found, index = (values[:, :, None] == candidates[:, None]).max(2)  # [B, K, W]
        return index, found
    ordered, order = candidates.sort(dim=1, stable=True)
    index = torch.searchsorted(ordered, values.contiguous()).clamp(max=candidates.shape[1] - 1)  # [B, K]
    found = ordered.gather(1, index) == values
    return order.gather(1, index) * found, found


def mark_members(sets: Tensor, candidates: Tensor) -> Tensor:
    """Return which candidates are in each set.

    Args:
        sets: ``[B, T, L]``, int64.
        candidates: what is in a set differs from all others in its row, ``[B, W]``, int64.

    Returns:
        ``[B, T, W]``, bool.

    >>> import torch
    >>> mark_members(torch.tensor([[[7, 5], [6, 0]]]), torch.tensor([[5, 6, 7]])).int().tolist()
    [[[1, 0, 1], [0, 1, 0]]]
    """
    num_candidates = candidates.shape[1]
    if sets.shape[1] * sets.shape[2] * num_candidates <= LARGEST_SCAN:
        return (sets[..., None] == candidates[:, None, None]).any(2)
    index, found = (part.view(sets.shape) for part in index_of(sets.flatten(1), candidates))
    members = torch.zeros(*sets.shape[:2], num_candidates + 1, dtype=torch.bool, device=sets.device)
    # what is not found marks a column of its own, which is cut off
    return members.scatter_(2, index.where(found, num_candidates), True)[..., :num_candidates]
