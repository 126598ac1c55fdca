"""What to do about items that share a semantic ID."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from atspeed.catalog.residual_kmeans import Encoding, ResidualKMeans


@dataclass(frozen=True, eq=False)
class NearestCodes:
    """New items with the codes that are nearest to their embeddings, and the SIDs of old items.

    Attributes:
        kmeans: the codebooks.
        embeddings: ``[all items, dim]``.
        rows: the new items, ``[items]``, int64.
        encoding: their nearest codes.
        old: SIDs that were made by the same rule and do not change, ``[old items, L]``, or ``[old items, L + 1]`` for
            a rule that adds a level; int32.
    """

    kmeans: ResidualKMeans
    embeddings: np.ndarray
    rows: np.ndarray
    encoding: Encoding
    old: np.ndarray


class CollisionRule(ABC):
    """Decides about items that share a semantic ID; a subclass is named by ``class_path``."""

    @abstractmethod
    def resolve(self, nearest: NearestCodes) -> np.ndarray:
        """Return the SIDs of the new items, ``[items, L]`` or ``[items, L + 1]``, int32.

        Raises:
            ValueError: if the rule cannot be kept.
        """


class NextNearest(CollisionRule):
    """Gives each item a SID of its own: below its other codes, the nearest code of the last level that is free.

    Of the items that share a SID, the one closest to its reconstruction keeps it; old items always keep theirs. The
    others choose in the order of their distance, so that no more items than necessary get another code::

        item      nearest codes    distance    SID
        soap      7 3 4            0.1         7 3 4
        sponge    7 3 4            0.3         7 3 6    its nearest code below 7 3 that is neither 4 nor 1
        comb      7 3 1            0.9         7 3 1

    Where more items share a prefix than there are SIDs below it (``num_codes`` below 7 3), the surplus items choose
    another code of an earlier level in the same way. So there is a SID for every item as long as there are as many.
    """

    def resolve(self, nearest: NearestCodes) -> np.ndarray:
        """Return SIDs of which no two are equal; see :meth:`CollisionRule.resolve`.

        Raises:
            ValueError: if there are more items than SIDs.
        """
        kmeans, num_old = nearest.kmeans, len(nearest.old)
        codes = np.concatenate((nearest.old, nearest.encoding.codes))
        distances = np.concatenate((np.full(num_old, -1, np.float32), nearest.encoding.distances))  # old ones first
        if len(codes) > kmeans.num_codes**kmeans.num_levels:
            raise ValueError(
                f"{len(codes)} items cannot have a semantic ID each: {kmeans.num_levels} levels of {kmeans.num_codes} "
                f"codes make {kmeans.num_codes**kmeans.num_levels} of them; set more levels or codes, or collisions to "
                "ExtraLevel"
            )
        for level in range(kmeans.num_levels):
            capacity = min(kmeans.num_codes ** (kmeans.num_levels - level - 1), len(codes))  # SIDs below a prefix
            moved = self._surplus(codes[:, : level + 1], distances, capacity)
            if not len(moved):
                continue
            self._move(nearest, codes, moved, capacity, level)
            rows = nearest.rows[moved - num_old]
            again = kmeans.encode(nearest.embeddings, rows, codes[moved, : level + 1])
            codes[moved], distances[moved] = again.codes, again.distances
        return codes[num_old:]

    @staticmethod
    def _surplus(prefixes: np.ndarray, distances: np.ndarray, capacity: int) -> np.ndarray:
        """Return the items for which their prefix has no room, those of a parent together, the closest first."""
        numbers, _ = group(prefixes)
        order = np.lexsort((distances, numbers))  # stable: of equally close ones the first comes first
        numbers = numbers[order]
        positions = np.arange(len(order)) - np.searchsorted(numbers, numbers)  # of an item within its prefix
        moved = order[positions >= capacity]
        parents, _ = group(prefixes[moved, :-1])
        return moved[np.lexsort((distances[moved], parents))]

    @staticmethod
    def _move(nearest: NearestCodes, codes: np.ndarray, moved: np.ndarray, capacity: int, level: int) -> None:
        """Give surplus items the nearest code of a level below which there is room; changes ``codes``."""
        parents, sizes = group(codes[:, :level])
        stay = np.setdiff1d(np.arange(len(codes)), moved)
        stay = stay[parents[stay].argsort(kind="stable")]
        starts = np.searchsorted(parents[stay], np.arange(len(sizes) + 1))  # of each parent's items among these
        ranks = nearest.kmeans.rank(nearest.embeddings, nearest.rows[moved - len(nearest.old)], codes[moved, :level])
        current, room = -1, np.empty(0, np.int64)
        for item, ranked in zip(moved, ranks, strict=True):
            if parents[item] != current:
                current = parents[item]
                used = codes[stay[starts[current] : starts[current + 1]], level]
                room = capacity - np.bincount(used, minlength=nearest.kmeans.num_codes)
            code = ranked[(room[ranked] > 0).argmax()]
            codes[item, level] = code
            room[code] -= 1


class ExtraLevel(CollisionRule):
    """Adds a level that numbers the items of a SID from 0, in their order; new items come after old ones."""

    def resolve(self, nearest: NearestCodes) -> np.ndarray:
        """Return SIDs of one more level, of which no two are equal; see :meth:`CollisionRule.resolve`."""
        num_old, nearest_codes = len(nearest.old), nearest.encoding.codes
        sids, sizes = group(np.concatenate((nearest.old[:, : nearest_codes.shape[1]], nearest_codes)))
        first = np.zeros(len(sizes), np.int32)  # the first free number of each SID
        np.maximum.at(first, sids[:num_old], nearest.old[:, -1] + 1)
        sids = sids[num_old:]
        order = sids.argsort(kind="stable")
        starts = np.searchsorted(sids[order], sids[order])  # of the SID of each item among the sorted ones
        numbers = np.empty(len(sids), np.int32)
        numbers[order] = first[sids[order]] + np.arange(len(sids)) - starts
        return np.column_stack((nearest_codes, numbers))


class Kept(CollisionRule):
    """Leaves items with one SID; an answer then lists all of them."""

    def resolve(self, nearest: NearestCodes) -> np.ndarray:
        """Return the nearest codes."""
        return nearest.encoding.codes


def group(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct rows of an array in their order.

    Args:
        codes: ``[items, L]``; with ``L = 0`` all rows are equal.

    Returns:
        the number of each row, ``[items]``, and how many rows have each number.

    >>> [array.tolist() for array in group(np.array([[5, 1], [2, 2], [5, 1]]))]
    [[1, 0, 1], [1, 2]]
    """
    if not codes.size:
        return np.zeros(len(codes), np.int64), np.array([len(codes)])
    order = np.lexsort(codes.T[::-1])  # np.unique(axis=0) takes five times as long
    changes = np.diff(codes[order], axis=0).any(1)
    numbers = np.empty(len(codes), np.int64)
    numbers[order] = np.concatenate(([0], changes.cumsum()))
    return numbers, np.bincount(numbers)
