"""Writing what several layouts share."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from atspeed.data.dataset import Dataset


def require_distinct_users(dataset: Dataset) -> None:
    """Raise ``ValueError`` if two users have one name."""
    counts = Counter(dataset.users)
    if len(counts) < len(dataset.users):
        raise ValueError(f"two users are called {counts.most_common(1)[0][0]!r}, which this format cannot hold")


def are_numbers(names: Sequence[str]) -> bool:
    """Return whether all names are whole numbers as they are usually written.

    >>> are_numbers(["0", "12"]), are_numbers(["1", "07"]), are_numbers(["-1"])
    (True, False, False)
    """
    return all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names)


def numbers_or_names(names: Sequence[str]) -> list[int] | list[str]:
    """Return the names as layouts write them in lists: as numbers if all are."""
    return list(map(int, names)) if are_numbers(names) else list(names)


def write_json(file: Path, content: object) -> None:
    """Write JSON in UTF-8."""
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_item_files(dataset: Dataset, folder: Path, name: str) -> None:
    """Write ``NAME.index.json``, item → codes, and ``NAME.item.json``, item → metadata, if there are any.

    Raises:
        ValueError: if the items have no semantic IDs, or not all of the same length.
    """
    names = dataset.catalog.names
    write_json(folder / f"{name}.index.json", dict(zip(names, dataset.items["sid"].to_pylist(), strict=True)))
    metadata = dataset.items.drop_columns(["item", "sid"])
    if metadata.num_columns:
        write_json(folder / f"{name}.item.json", dict(zip(names, metadata.to_pylist(), strict=True)))
