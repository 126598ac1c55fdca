"""A filter that leaves out what users have seen."""

from collections.abc import Sequence

import torch

from atspeed.catalog.item_catalog import ItemIndices
from atspeed.decoding import ItemFilter


def unseen_items(histories: Sequence[ItemIndices], num_items: int, device: torch.device | str = "cpu") -> ItemFilter:
    """Return a filter that leaves out the items of each request's history.

    Args:
        histories: catalog indices, one history per request, ``B`` of them.
        num_items: size of the catalog.
        device: where the filter's mask goes, ``[B, num_items]``, bool.

    >>> unseen_items([[2, 0, 2], []], num_items=3).item_mask.int().tolist()
    [[0, 1, 0], [1, 1, 1]]
    """
    unseen = torch.ones(len(histories), num_items, dtype=torch.bool)
    for request, history in enumerate(histories):
        unseen[request, torch.tensor(history, dtype=torch.long)] = False
    return ItemFilter(unseen.to(device))
