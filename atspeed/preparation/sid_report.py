"""What ``semantic-ids`` says about the semantic IDs that it made."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from atspeed.catalog.collisions import group
from atspeed.terminal import show


@dataclass(frozen=True)
class LevelUsage:
    """How a level's codes are used, over all items.

    Attributes:
        level: the level, from 0.
        codes: how many codes it has.
        used: how many of them an item has.
        entropy: of the codes of the items, in bits; at most ``log2(codes)``.
        perplexity: ``2 ** entropy``: how many codes, equally used, have this entropy.
        error: relative reconstruction error of the new items after this level, before collisions are resolved (see
            ``Encoding.errors``); None for a level that only numbers items.
    """

    level: int
    codes: int
    used: int
    entropy: float
    perplexity: float
    error: float | None


@dataclass(frozen=True)
class SharedSids:
    """How many items share a semantic ID.

    Attributes:
        distinct: number of different semantic IDs.
        shared: number of those that more than one item has.
        colliding_items: number of items that have one of these.
        most_items: most items of a semantic ID.
    """

    distinct: int
    shared: int
    colliding_items: int
    most_items: int


@dataclass(frozen=True)
class SemanticIdReport:
    """The content of ``semantic_ids.json``.

    Attributes:
        items: number of items that have a semantic ID.
        new_items: how many of them got it now; the others are those of the folder that was extended.
        levels: a row per level.
        before: collisions of the nearest codes.
        after: collisions that are left.
        settings: the settings of the command.
        codebooks: the settings and packages that the codebooks were made with.
        provenance: command, commit, versions, device and threads.
    """

    items: int
    new_items: int
    levels: list[LevelUsage]
    before: SharedSids
    after: SharedSids
    settings: dict[str, Any]
    codebooks: dict[str, str]
    provenance: dict[str, Any]


def level_usage(codes: np.ndarray, num_codes: int, errors: Sequence[float]) -> list[LevelUsage]:
    """Return how the codes of each level are used.

    Args:
        codes: SIDs, ``[items, levels]``.
        num_codes: size of a codebook.
        errors: reconstruction error after each codebook; there may be one level more.

    >>> level_usage(np.array([[0, 1], [2, 1], [2, 1], [0, 1]]), 3, [0.5, 0.25])[0]
    LevelUsage(level=0, codes=3, used=2, entropy=1.0, perplexity=2.0, error=0.5)
    """
    rows = []
    for level, (column, error) in enumerate(zip_longest(codes.T, errors)):
        counts = np.bincount(column)
        shares = counts[counts > 0] / len(column)
        entropy = float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0
        size = len(counts) if error is None else num_codes
        rows.append(LevelUsage(level, size, len(shares), entropy, 2**entropy, error))
    return rows


def shared_sids(codes: np.ndarray) -> SharedSids:
    """Return how many items share a semantic ID.

    Args:
        codes: SIDs, ``[items, levels]``.

    >>> shared_sids(np.array([[0, 1], [2, 1], [2, 1], [0, 0]]))
    SharedSids(distinct=3, shared=1, colliding_items=2, most_items=2)
    """
    _, sizes = group(codes)
    shared = sizes[sizes > 1]
    return SharedSids(len(sizes), len(shared), int(shared.sum()), int(sizes.max()))


def print_report(report: SemanticIdReport, out: Path) -> None:
    """Print a table, the collisions, and where the semantic IDs are."""
    table = Table("level", "codes", "used", "entropy, bits", "perplexity", "error", title="semantic IDs")
    for row in report.levels:
        error = "–" if row.error is None else f"{row.error:.3f}"
        cells = f"{row.level}", f"{row.codes:,}", f"{row.used:,}", f"{row.entropy:.2f}", f"{row.perplexity:.1f}", error
        table.add_row(*cells)
    old = report.items - report.new_items
    show(
        table,
        f"{report.items:,} items" + (f", of which {old:,} had their semantic ID before" if old else ""),
        f"items that share one: {report.before.colliding_items:,} by nearest codes, {report.after.colliding_items:,} "
        "in the end",
        f"written to {out}; use them by --data.source.sids {out / 'sids.parquet'}",
    )
