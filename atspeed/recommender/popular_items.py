"""What users without history get."""

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog
from atspeed.decoding import Decoded, ItemFilter, ItemTrie
from atspeed.recommender.answers import Answer, answers


class PopularItems:
    """Recommends the most popular semantic IDs: there is nothing that a model could go by.

    The score is the logarithm of a semantic ID's share of all interactions, of which every item counts one more than it
    has, so that new items have a finite one. Ties go to the semantic ID that comes first in the trie.

    Args:
        counts: interactions of each item, ``[num_items]``, int64.
        catalog: the items.
        trie: of their semantic IDs.
    """

    def __init__(self, counts: np.ndarray, catalog: ItemCatalog, trie: ItemTrie) -> None:
        self.catalog = catalog
        self.trie = trie
        device = trie.items.device
        self._weights = torch.from_numpy(counts + 1.0).to(device)  # [num_items], float64
        self._leaves = trie.leaves(torch.arange(catalog.num_items, device=device))  # [num_items]

    def answer(self, k: int, item_mask: Tensor | None = None) -> Answer:
        """Return the best ``k`` semantic IDs.

        Args:
            k: how many.
            item_mask: True for items that may be recommended, ``[num_items]``, bool; all if not given.
        """
        weights = self._weights if item_mask is None else self._weights * item_mask.to(self._weights.device)
        totals = torch.bincount(self._leaves, weights, minlength=self.trie.num_nodes)
        best = totals.argsort(descending=True, stable=True)[:k]
        best = best[totals[best] > 0][None]  # [1, k]
        if not best.numel():  # no item may be recommended
            return Answer([], target_calls=0, draft_calls=0, accepted_levels=0)
        none = torch.zeros(1, dtype=torch.long)
        decoded = Decoded(
            leaves=best,
            scores=(totals[best] / self._weights.sum()).log(),
            target_calls=none,
            draft_calls=none,
            accepted=none[:, None],
            drafted=none[:, None],
            loss_bound=torch.full((1,), torch.inf),
        )
        return answers(decoded, self.trie, self.catalog, None if item_mask is None else ItemFilter(item_mask[None]))[0]
