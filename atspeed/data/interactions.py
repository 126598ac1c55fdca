"""Who interacted with what: the sources of users' item sequences and their splits."""

from dataclasses import dataclass

from atspeed.catalog.item_catalog import ItemCatalog

ItemSequences = list[list[int]]


@dataclass(frozen=True)
class Interactions:
    """A data set in memory.

    Attributes:
        catalog: the items.
        users: user names; the three splits are in the same order.
        train: each user's items (catalog indices) in time order.
        valid: the items that came next; empty for a user without any.
        test: the items after those; empty for a user without any.
    """

    catalog: ItemCatalog
    users: list[str]
    train: ItemSequences
    valid: ItemSequences
    test: ItemSequences
