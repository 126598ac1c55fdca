"""From a user's items to the model's tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from atspeed.catalog.item_catalog import ItemCatalog, ItemIndices
from atspeed.catalog.vocabulary import BOS, SEP

IGNORED = -100  # the label that torch's and transformers' cross-entropies skip


@dataclass(frozen=True)
class CompactPrompt:
    """``<bos> codes <sep> codes <sep> …``: every item is closed by a separator, after which the next one is written.

    So the last position of a prompt looks like each position at which training predicts an item.

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
        """Return tokens and labels, each ``[P]``, of up to ``max_items + 1`` items that are to be predicted.

        The codes of all items (or of the last one only) are labels; special tokens never are, since a fixed-length
        SID tells by itself where it ends.
        """
        history, last = items[-self.max_items - 1 : -1], items[-1:]
        tokens = torch.cat([self.encode(history), self.catalog.encode(last).flatten()])
        labels = tokens.masked_fill(tokens <= SEP, IGNORED)
        if last_only:
            labels[: -self.catalog.num_levels] = IGNORED
        return tokens, labels
