"""Items by name, and by what their names and titles contain."""

import pyarrow.compute as pc

from atspeed.catalog.item_catalog import POPULARITY
from atspeed.recommender import ServedCatalog
from atspeed.serving.problems import ProblemError
from atspeed.serving.schemas import CatalogItem, ItemSummary


def summary(served: ServedCatalog, name: str) -> ItemSummary:
    """Return name and title of an item."""
    titles = served.catalog.titles
    return ItemSummary.model_construct(id=name, title=titles[served.catalog.index(name)] if titles else None)


def look_up(served: ServedCatalog, name: str) -> CatalogItem:
    """Return an item with its metadata.

    Raises:
        ProblemError: 404 if there is none of that name.
    """
    if name not in served.catalog:
        raise ProblemError(404, f"item {name!r} is not in the catalog ({served.catalog.num_items} items)")
    row = served.items.slice(served.catalog.index(name), 1).to_pylist()[0]
    known = {"item", "sid", "title", POPULARITY}
    metadata = {column: value for column, value in row.items() if column not in known}
    return CatalogItem(id=name, title=row.get("title"), sid=row["sid"], metadata=metadata)


def search(served: ServedCatalog, query: str, limit: int) -> list[ItemSummary]:
    """Return the first items, in catalog order, whose name or title contains a text, in whatever case.

    Args:
        served: the catalog.
        query: the text; empty: every item does.
        limit: most items.
    """
    items = served.items
    found = pc.match_substring(items["item"], query, ignore_case=True)
    if "title" in items.column_names:
        found = pc.or_(found, pc.fill_null(pc.match_substring(items["title"], query, ignore_case=True), False))
    return [summary(served, name) for name in items["item"].filter(found).slice(0, limit).to_pylist()]
