"""Semantic IDs as a code: collisions, usage and the shape of their tree."""

from dataclasses import dataclass

import torch

from atspeed.catalog import ItemCatalog
from atspeed.decoding import ItemTrie
from atspeed.preparation.spread import Spread


@dataclass(frozen=True)
class LevelRow:
    """One level of the semantic IDs.

    Attributes:
        level: 0 for the first code.
        used_codes: different codes of the level.
        perplexity: 2 to the power of the entropy of their usage by items, in bits: how many equally used codes would
            tell items apart as well.
        prefixes: different prefixes that end with this level.
        children: codes that follow a prefix; None after the last level.
        largest_share: share of all items below the prefix with the most.
        ten_largest_share: below the ten prefixes with the most.
    """

    level: int
    used_codes: int
    perplexity: float
    prefixes: int
    children: Spread | None
    largest_share: float
    ten_largest_share: float


@dataclass(frozen=True)
class SidReport:
    """What there is to know about the semantic IDs of a catalog.

    Attributes:
        num_levels: codes of a semantic ID.
        distinct: different semantic IDs.
        colliding_items: items that share theirs with others.
        largest_collision: most items with one semantic ID.
        levels: the first code first.
    """

    num_levels: int
    distinct: int
    colliding_items: int
    largest_collision: int
    levels: list[LevelRow]


def describe_sids(catalog: ItemCatalog, trie: ItemTrie) -> SidReport:
    """Return the statistics of a catalog.

    Args:
        catalog: the items.
        trie: the tree of their semantic IDs.
    """
    sharing = trie.num_items[trie.depth_start[-2] :]  # items of each leaf
    return SidReport(
        num_levels=catalog.num_levels,
        distinct=trie.num_leaves,
        colliding_items=int(sharing[sharing > 1].sum()),
        largest_collision=int(sharing.max()),
        levels=[_level_row(catalog, trie, level) for level in range(catalog.num_levels)],
    )


def _level_row(catalog: ItemCatalog, trie: ItemTrie, level: int) -> LevelRow:
    usage = torch.bincount(catalog.codes[:, level])
    usage = usage[usage > 0].double() / catalog.num_items
    begin, end = trie.depth_start[level + 1 : level + 3]
    shares = trie.num_items[begin:end].sort(descending=True).values.double() / catalog.num_items
    is_last = level == catalog.num_levels - 1
    return LevelRow(
        level=level,
        used_codes=len(usage),
        perplexity=float(2 ** -(usage * usage.log2()).sum()),
        prefixes=end - begin,
        children=None if is_last else Spread.of(trie.num_children[begin:end]),
        largest_share=float(shares[0]),
        ten_largest_share=float(shares[:10].sum()),
    )
