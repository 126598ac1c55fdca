"""A data set: who interacted with what, in three splits."""

from collections.abc import Sequence
from dataclasses import dataclass

from atspeed.catalog.item_catalog import ItemCatalog
from atspeed.data.item_sequences import ItemSequences


@dataclass(frozen=True, eq=False)
class Interactions:
    """A data set.

    Attributes:
        catalog: the items.
        users: user names; the three splits are in the same order.
        train: each user's items (catalog indices) in time order.
        valid: the items that came next; empty for a user without any.
        test: the items after those; empty for a user without any.

    Raises:
        ValueError: if a split does not have one sequence per user.
    """

    catalog: ItemCatalog
    users: Sequence[str]
    train: ItemSequences
    valid: ItemSequences
    test: ItemSequences

    def __post_init__(self) -> None:
        for split in ("train", "valid", "test"):
            found = len(getattr(self, split))
            if found != len(self.users):
                raise ValueError(f"the split {split!r} has {found} sequences; expected one per user, {len(self.users)}")
