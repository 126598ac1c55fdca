"""Users' item sequences as two arrays."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np


@dataclass(frozen=True, eq=False)
class ItemSequences:
    """One sequence of items per user, all of them in one array.

    ::

        sequences    [4 7 4]   []    [2 9]
        values        4 7 4           2 9
        offsets      0       3     3       5      user u: values[offsets[u] : offsets[u + 1]]

    Attributes:
        offsets: where each user's items start, then the number of all items, ``[users + 1]``, int64.
        values: catalog indices, one user after the other, ``[interactions]``, int64.

    Raises:
        ValueError: if the offsets do not start at 0, decrease, or do not end at the number of values.

    >>> sequences = ItemSequences.from_lists([[4, 7, 4], [], [2, 9]])
    >>> len(sequences), sequences.offsets.tolist(), sequences[2].tolist()
    (3, [0, 3, 3, 5], [2, 9])
    """

    offsets: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        ends = (self.offsets[0], self.offsets[-1]) if len(self.offsets) else None
        if ends != (0, len(self.values)) or (self.lengths < 0).any():
            raise ValueError(
                f"the offsets of item sequences must rise from 0 to their {len(self.values)} items; they are "
                f"{self.offsets}"
            )

    @classmethod
    def from_lists(cls, sequences: Iterable[Sequence[int]]) -> "ItemSequences":
        """Return sequences that are given one by one."""
        sequences = list(sequences)
        offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
        np.cumsum([len(items) for items in sequences], out=offsets[1:])
        return cls(offsets, np.fromiter(chain.from_iterable(sequences), np.int64, count=offsets[-1]))

    @classmethod
    def from_slices(cls, values: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> "ItemSequences":
        """Return ``values[start:end]`` for each start and end, ``[users]``, int64.

        >>> values, starts, ends = np.array([4, 7, 4, 2]), np.array([2, 0]), np.array([4, 1])
        >>> ItemSequences.from_slices(values, starts, ends).tolist()
        [[4, 2], [4]]
        """
        lengths = ends - starts
        offsets = np.concatenate(([0], lengths.cumsum()))
        shift = starts - offsets[:-1]  # of each user's items, from the result to the values
        return cls(offsets, values[np.arange(offsets[-1]) + shift.repeat(lengths)])

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each user, ``[users]``, int64."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, user: int) -> np.ndarray:
        user = range(len(self))[user]  # IndexError if there is no such user
        return self.values[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        for start, end in pairwise(self.offsets.tolist()):
            yield self.values[start:end]

    def keep(self, kept: np.ndarray, number: np.ndarray) -> "ItemSequences":
        """Return the sequences without some of their items, and with the others numbered anew.

        Args:
            kept: which values stay, ``[interactions]``, bool.
            number: new number of each item, ``[items]``, int64.

        >>> sequences = ItemSequences.from_lists([[2, 0], [1]])
        >>> sequences.keep(np.array([True, True, False]), np.array([0, 0, 1])).tolist()
        [[1, 0], []]
        """
        num_kept = np.concatenate(([0], kept.cumsum()))  # before each value
        return ItemSequences(num_kept[self.offsets], number[self.values[kept]])

    def tolist(self) -> list[list[int]]:
        """Return the sequences as lists."""
        values = self.values.tolist()
        return [values[start:end] for start, end in pairwise(self.offsets.tolist())]


def concatenate(*parts: ItemSequences) -> ItemSequences:
    """Join the sequences of each user; the parts have the same users.

    >>> first, second = ItemSequences.from_lists([[4, 7], []]), ItemSequences.from_lists([[1], [5]])
    >>> concatenate(first, second).tolist()
    [[4, 7, 1], [5]]
    """
    offsets = np.sum([part.offsets for part in parts], axis=0)
    values = np.empty(offsets[-1], dtype=np.int64)
    starts = offsets[:-1].copy()  # where the next part of each user goes
    for part in parts:
        shift = starts - part.offsets[:-1]  # of each user's items, from the part to the result
        values[np.arange(len(part.values)) + shift.repeat(part.lengths)] = part.values
        starts += part.lengths
    return ItemSequences(offsets, values)
