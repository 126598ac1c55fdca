"""How much of the catalog is ever recommended."""

import torch
from torch import Tensor
from torchmetrics import Metric

from atspeed.checks import require_at_least


def shown_items(recommended: Tensor, num_items: int, k: int) -> Tensor:
    """Return which items are among the first K of any list, ``[num_items]``, bool.

    Args:
        recommended: item indices, best first, ``[B, ≥ K]``, int64, padded with -1.
        num_items: size of the catalog.
        k: length of the list.
    """
    shown = torch.zeros(num_items + 1, dtype=torch.bool, device=recommended.device)
    shown[recommended[:, :k]] = True  # padding, -1, marks the extra entry at the end
    return shown[:-1]


def catalog_coverage(recommended: Tensor, num_items: int, k: int) -> Tensor:
    """Catalog coverage@K: the share of all items that are among the first K of any list; float32, a scalar.

    Arguments as in :func:`shown_items`.

    >>> catalog_coverage(torch.tensor([[2, 0, 1], [2, -1, -1]]), num_items=4, k=2)
    tensor(0.5000)
    """
    return shown_items(recommended, num_items, k).float().mean()


class CatalogCoverage(Metric):
    """:func:`catalog_coverage` over all requests and processes.

    Args:
        num_items: size of the catalog.
        k: length of the list.
    """

    full_state_update = False
    higher_is_better = True
    shown: Tensor

    def __init__(self, num_items: int, k: int) -> None:
        super().__init__()
        require_at_least(1, num_items=num_items, k=k)
        self.num_items = num_items
        self.k = k
        # integers, because processes are reduced by their maximum
        self.add_state("shown", torch.zeros(num_items, dtype=torch.uint8), dist_reduce_fx="max")

    def update(self, recommended: Tensor) -> None:
        """Add lists; see :func:`shown_items`."""
        self.shown |= shown_items(recommended, self.num_items, self.k)

    def compute(self) -> Tensor:
        """Return the share, float32, a scalar."""
        return self.shown.float().mean()
