"""A small generated data set, with which everything runs without a download."""

import numpy as np
import pyarrow as pa

from atspeed.checks import require_at_least
from atspeed.data.dataset import Dataset, item_table
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources.interaction_source import InteractionSource

TASTES = (
    *("tea", "coffee", "chocolate", "cheese", "honey", "spice", "bread", "jam"),
    *("candle", "soap", "lamp", "blanket", "basket", "mug", "notebook", "kite"),
)
SHELVES = (
    *("amber", "autumn", "blue", "bright", "calm", "copper", "coral", "crisp", "early", "forest"),
    *("garden", "gentle", "golden", "harbour", "highland", "island", "ivory", "lucky", "meadow", "midnight"),
)


class EmbeddedCatalog(InteractionSource):
    """Generated users and items with the properties that matter: tastes, skewed popularity and learnable order.

    An item belongs to a taste, which is its category. The codes of its semantic ID are the taste, a shelf within the
    taste, and two finer codes; a few items share a SID. Its title says where it is: "Golden tea 3" is the third of a
    shelf of teas. A user has two or three tastes and switches between them. Within a taste the next
    item is mostly a successor of the user's last item there, and otherwise drawn by popularity (Zipf). So the next
    item depends on older items of the history, not only on the last. A user's last item is for testing (for one user
    in four, the last two items), the item before it for validation.

    Args:
        num_users: number of users.
        num_items: number of items.
        num_tastes: number of tastes, which are the codes of the first level.
        seed: the same seed gives the same data.
    """

    def __init__(self, num_users: int = 1000, num_items: int = 1200, num_tastes: int = 16, seed: int = 0) -> None:
        require_at_least(1, data__source__num_users=num_users)
        require_at_least(3, data__source__num_tastes=num_tastes)  # a user has two or three
        require_at_least(8 * num_tastes, data__source__num_items=num_items)
        self.num_users = num_users
        self.num_items = num_items
        self.num_tastes = num_tastes
        self.seed = seed

    def load(self) -> Dataset:
        """Generate the data set."""
        rng = np.random.default_rng(self.seed)
        by_taste = np.array_split(rng.permutation(self.num_items), self.num_tastes)
        successors = [self._successors(items, rng) for items in by_taste]
        sequences = [self._sequence(by_taste, successors, rng) for _ in range(self.num_users)]
        num_test = [2 if draw < 0.25 else 1 for draw in rng.random(self.num_users)]
        splits = list(zip(sequences, num_test, strict=True))
        return Dataset(
            items=self._items(by_taste, rng),
            users=[f"user-{number}" for number in range(self.num_users)],
            train=ItemSequences.from_lists(items[: -held - 1] for items, held in splits),
            valid=ItemSequences.from_lists(items[-held - 1 : -held] for items, held in splits),
            test=ItemSequences.from_lists(items[-held:] for items, held in splits),
        )

    def _items(self, by_taste: list[np.ndarray], rng: np.random.Generator) -> pa.Table:
        codes: dict[int, list[str]] = {}
        titles: dict[int, str] = {}
        categories: dict[int, str] = {}
        for taste, items in enumerate(by_taste):
            for rank, item in enumerate(items):
                categories[int(item)] = _word(TASTES, taste)
                titles[int(item)] = f"{_word(SHELVES, rank // 4)} {_word(TASTES, taste)} {rank % 4 + 1}".capitalize()
                if rank % 50 == 49:  # a collision: this item gets its neighbour's SID
                    codes[int(item)] = codes[int(items[rank - 1])]
                    continue
                fine = rng.integers(32)
                codes[int(item)] = [f"<a_{taste}>", f"<b_{rank // 4}>", f"<c_{fine}>", f"<d_{rank % 4}>"]
        numbers = range(self.num_items)
        return item_table(
            (f"item-{number}" for number in numbers),
            (codes[number] for number in numbers),
            title=(titles[number] for number in numbers),
            category=(categories[number] for number in numbers),
        )

    @staticmethod
    def _successors(items: np.ndarray, rng: np.random.Generator) -> dict[int, np.ndarray]:
        cycle = rng.permutation(items)
        return {int(item): np.roll(cycle, -index - 1)[:3] for index, item in enumerate(cycle)}

    @staticmethod
    def _sequence(
        by_taste: list[np.ndarray], successors: list[dict[int, np.ndarray]], rng: np.random.Generator
    ) -> list[int]:
        tastes = rng.choice(len(by_taste), size=rng.integers(2, 4), replace=False)
        last: dict[int, int] = {}
        sequence = []
        for _ in range(5 + min(int(rng.geometric(0.2)), 25)):
            taste = int(rng.choice(tastes))
            items = by_taste[taste]
            if taste in last and rng.random() < 0.85:
                item = int(rng.choice(successors[taste][last[taste]], p=(0.7, 0.2, 0.1)))
            else:
                popularity = 1 / np.arange(1, len(items) + 1)
                item = int(rng.choice(items, p=popularity / popularity.sum()))
            last[taste] = item
            sequence.append(item)
        return sequence


def _word(words: tuple[str, ...], number: int) -> str:
    """Return a word for a number; a larger one than there are words for gets a number of its own."""
    again, index = divmod(number, len(words))
    return f"{words[index]} {again + 1}" if again else words[index]
