"""Where values stand in a list: the one search that trees, slots and proposals need."""

from torch import Tensor


def index_of(values: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Find each value of a row among the candidates of the same row.

    Args:
        values: ``[B, K]``, int64.
        candidates: ``[B, W]``, int64, W of 1 or more.

    Returns:
        the index of the first equal candidate, ``[B, K]``, int64, 0 where there is none; and whether there is one,
        ``[B, K]``, bool.

    >>> import torch
    >>> index, found = index_of(torch.tensor([[7, 5, 6]]), torch.tensor([[5, 7, 7]]))
    >>> index.tolist(), found.tolist()
    ([[1, 0, 0]], [[True, True, False]])
    """
    found, index = (values[:, :, None] == candidates[:, None]).max(2)  # [B, K, W]
    return index, found
