"""From decoded semantic IDs to recommended items."""

from dataclasses import dataclass

import torch

from atspeed.catalog.item_catalog import ItemCatalog
from atspeed.decoding import ROOT, Decoded, ItemFilter, ItemTrie


@dataclass(frozen=True)
class Recommendation:
    """A recommended semantic ID.

    Attributes:
        items: names of the items that share it, in catalog order; a filter may leave out some of them.
        sid: its codes.
        score: its log-probability, in nats.
    """

    items: list[str]
    sid: list[str]
    score: float


@dataclass(frozen=True)
class Answer:
    """What a request gets.

    Attributes:
        recommended: best first; fewer than the beam width where a filter leaves fewer semantic IDs.
        target_calls: forward passes of the target for this request; 0: no model was asked (:class:`PopularItems`).
        draft_calls: forward passes of the draft.
        accepted_levels: levels that came without a target call of their own.
    """

    recommended: list[Recommendation]
    target_calls: int
    draft_calls: int
    accepted_levels: int


def answers(
    decoded: Decoded, trie: ItemTrie, catalog: ItemCatalog, item_filter: ItemFilter | None = None
) -> list[Answer]:
    """Name the items of decoded requests.

    Args:
        decoded: what a decoder returned for ``B`` requests.
        trie: the trie of the catalog, on the device of ``decoded``.
        catalog: the items.
        item_filter: the filter that the requests were decoded with; ``[num_items]`` or ``[B, num_items]``.
    """
    batch_size, num_beams = decoded.leaves.shape
    masks = item_filter.item_mask.expand(batch_size, -1) if item_filter else [None] * batch_size
    result = []
    counts = torch.stack([decoded.target_calls, decoded.draft_calls, decoded.accepted_levels], dim=1)  # [B, 3]
    for leaves, scores, calls, mask in zip(
        decoded.leaves, decoded.scores.tolist(), counts.tolist(), masks, strict=True
    ):
        wanted = None if mask is None else mask.expand(num_beams, -1)
        items = trie.concatenated_items(leaves[:, None], catalog.num_items, wanted).tolist()  # one row per leaf
        recommended = [
            _recommendation(catalog, [item for item in row if item >= 0], score)
            for row, leaf, score in zip(items, leaves.tolist(), scores, strict=True)
            if leaf != ROOT
        ]
        result.append(Answer(recommended, *calls))
    return result


def _recommendation(catalog: ItemCatalog, items: list[int], score: float) -> Recommendation:
    return Recommendation([catalog.names[item] for item in items], list(catalog.sid(items[0])), score)
