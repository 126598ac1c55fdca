"""Who asks for recommendations: users of the data set, or a file of histories."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from atspeed.catalog.item_catalog import ItemCatalog
from atspeed.data.item_sequences import ItemSequences

log = logging.getLogger(__name__)
EXPECTED = 'expected a line like {"user": "u1", "history": ["item 3", "item 8"]}'


@dataclass(frozen=True, eq=False)
class Histories:
    """Requests for recommendations, in order.

    Attributes:
        users: names; a user may ask more than once.
        items: all that is known of each (catalog indices) in time order.
    """

    users: Sequence[str]
    items: ItemSequences


def read_histories(file: Path, catalog: ItemCatalog, skip_unknown_items: bool) -> Histories:
    """Read JSON lines ``{"user": …, "history": [item, …]}``; other keys are ignored.

    Users and items are named by strings or whole numbers (7 is ``"7"``); blank lines are skipped.

    Args:
        file: the file.
        catalog: knows the items.
        skip_unknown_items: leave out items that the catalog does not have and log how many, instead of refusing them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not a request or names an unknown item; the message names the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"data.histories {str(file)!r} is not a file; {EXPECTED}")
    users: list[str] = []
    histories: list[list[int]] = []
    skipped = 0
    with file.open() as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            user, names = _parse(line, f"data.histories {file}:{number}")
            unknown = [name for name in names if name not in catalog]
            if unknown and not skip_unknown_items:
                raise ValueError(
                    f"data.histories {file}:{number}: item {unknown[0]!r} is not in the catalog (items are called like "
                    f"{catalog.names[0]!r}); correct it, or leave such items out with data.skip_unknown_items true"
                )
            skipped += len(unknown)
            users.append(user)
            histories.append([catalog.index(name) for name in names if name in catalog])
    if not users:
        raise ValueError(f"data.histories {str(file)!r} has no request; {EXPECTED}")
    if skipped:
        log.warning("%s: left out %d items of histories that are not in the catalog", file, skipped)
    return Histories(users, ItemSequences.from_lists(histories))


def _parse(line: str, location: str) -> tuple[str, list[str]]:
    error = ValueError(f"{location}: {EXPECTED}, where names are strings or whole numbers, not {line.strip()[:80]!r}")
    try:
        record = json.loads(line)
        user, history = record["user"], record["history"]
    except (json.JSONDecodeError, KeyError, TypeError):
        raise error from None
    if not isinstance(history, list) or not all(type(name) in (str, int) for name in [user, *history]):
        raise error
    return str(user), [str(name) for name in history]
