"""Histories as they are written in a text."""

import re

from atspeed.catalog import ItemCatalog
from atspeed.catalog.item_catalog import ItemIndices

HISTORY, CODES, TITLE = "{history}", "{codes}", "{title}"


class HistoryText:
    """Writes the text of a prompt.

    Args:
        catalog: the items.
        template: the prompt, with ``{history}`` where the items go.
        item: how one is written: ``{codes}``, the codes of its semantic ID, or ``{title}``, or both, and text around.
        separator: text between items.

    Attributes:
        head: text before the items.
        tail: text after them.
        has_titles: whether titles are written.

    Raises:
        ValueError: if one of them lacks what it must have, or the catalog the title of an item.

    >>> catalog = ItemCatalog({"x": ["<a_1>", "<b_2>"], "y": ["<a_1>", "<b_3>"]}, {"x": "soap", "y": "comb"})
    >>> HistoryText(catalog, "Bought: {history}. Next:", "{title} ({codes})", ", ").write([1, 0])
    'Bought: comb (<a_1><b_3>), soap (<a_1><b_2>). Next:'
    """

    def __init__(self, catalog: ItemCatalog, template: str, item: str, separator: str) -> None:
        if template.count(HISTORY) != 1:
            raise ValueError(
                f"the prompt {template!r} has {HISTORY} {template.count(HISTORY)} times; it must say once where the "
                "items go"
            )
        self.head, self.tail = template.split(HISTORY)
        self.separator = separator
        self.catalog = catalog
        self._parts = re.split(f"({CODES}|{TITLE})", item)  # "" "{title}" " (" "{codes}" ")"
        self.has_titles = TITLE in self._parts
        if not self.has_titles and CODES not in self._parts:
            raise ValueError(f"the prompt's item {item!r} has neither {CODES} nor {TITLE}, so all items look alike")
        if self.has_titles:
            self._check_titles(item)

    def _check_titles(self, item: str) -> None:
        titles = self.catalog.titles or (None,)
        if None in titles:
            name = self.catalog.names[titles.index(None)]
            raise ValueError(
                f"item {name!r} has no title, which the prompt's item {item!r} asks for; give the items of the data a "
                f"column title, or leave {TITLE} out"
            )

    @property
    def around_codes(self) -> tuple[str, str] | None:
        """Text of an item before and after its codes; None if there is more to it."""
        return (self._parts[0], self._parts[2]) if self._parts[1:2] == [CODES] and len(self._parts) == 3 else None

    def write_item(self, item: int) -> str:
        """Return the text of an item, by its index."""
        return "".join(self._write_part(part, item) for part in self._parts)

    def _write_part(self, part: str, item: int) -> str:
        if part == CODES:
            return "".join(self.catalog.sid(item))
        if part == TITLE and self.catalog.titles:
            return str(self.catalog.titles[item])
        return part

    def write(self, history: ItemIndices) -> str:
        """Return the text of a prompt, for a history of item indices."""
        return self.head + self.separator.join(self.write_item(int(item)) for item in history) + self.tail
