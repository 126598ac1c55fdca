"""The prompt of the compact vocabulary: codes and separators."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atspeed.catalog.item_catalog import ItemCatalog, ItemIndices
from atspeed.catalog.vocabulary import BOS, SEP

IGNORED = -100  # the label that the cross-entropies of torch and transformers skip


@dataclass(frozen=True)
class CompactPrompt:
    """``<bos> codes <sep> codes <sep> …``: a separator ends every item, and the next item follows it.

    So the model predicts the next item at the last separator of a prompt, as it does at every separator in training.

    Args:
        catalog: the items.
        max_items: histories are cut to their last ``max_items`` items.
    """

    catalog: ItemCatalog
    max_items: int = 20

    def encode(self, history: ItemIndices) -> Tensor:
        """Return the prompt of a history of item indices, shape ``[P]``, int64."""
        codes = self.catalog.encode(history[-self.max_items :])  # [items, L]
        closed = torch.nn.functional.pad(codes, (0, 1), value=SEP)  # [items, L + 1]
        return torch.nn.functional.pad(closed.flatten(), (1, 0), value=BOS)

    def encode_labelled(self, items: ItemIndices, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and labels of the last ``max_items + 1`` items to learn from, each ``[P]``, int64.

        The codes of all items are labels (with ``last_only``, those of the last item). Special tokens are not, because
        a SID of fixed length does not need an end token.
        """
        history, last = items[-self.max_items - 1 : -1], items[-1:]
        tokens = torch.cat([self.encode(history), self.catalog.encode(last).flatten()])
        labels = tokens.masked_fill(tokens <= SEP, IGNORED)
        if last_only:
            labels[: -self.catalog.num_levels] = IGNORED
        return tokens, labels
