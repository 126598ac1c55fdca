"""Which items a request may get."""

import torch
from torch import Tensor

from atspeed.decoding.trie import ItemTrie


class ItemFilter:
    """Restricts answers to some items: in stock, of a category, not yet seen by the user.

    The items become a mask over the trie's nodes at the first use, which is kept: hold on to a filter that many
    requests share. Conditions are combined before, item by item: ``ItemFilter(in_stock & ~seen)``.

    Args:
        item_mask: True for items that may be recommended, bool, ``[num_items]`` for all requests or
            ``[B, num_items]``; not to be changed afterwards.

    Raises:
        TypeError: if the mask is not boolean.
    """

    def __init__(self, item_mask: Tensor) -> None:
        if item_mask.dtype != torch.bool:
            raise TypeError(f"an item mask is {item_mask.dtype}; expected torch.bool")
        self.item_mask = item_mask
        self._trie: ItemTrie | None = None

    def node_mask(self, trie: ItemTrie, batch_size: int) -> Tensor:
        """Return which nodes lead to an item that may be recommended, ``[B, M]``, bool.

        Raises:
            ValueError: if the mask does not fit the catalog or the number of requests.
        """
        if self.item_mask.shape not in ((len(trie.items),), (batch_size, len(trie.items))):
            raise ValueError(
                f"an item mask has the shape {list(self.item_mask.shape)}; expected [{len(trie.items)}] items, or "
                f"[{batch_size}, {len(trie.items)}] for the requests of the batch"
            )
        if self._trie is not trie:
            self._trie, self._nodes = trie, trie.node_mask(self.item_mask.to(trie.items.device))
        return self._nodes.expand(batch_size, -1)
