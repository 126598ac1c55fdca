"""Changes of a catalog: items added, replaced and removed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from atspeed.catalog.item_catalog import POPULARITY


def edit_items(
    items: pa.Table,
    add: Sequence[Mapping[str, Any]] = (),
    replace: Sequence[Mapping[str, Any]] = (),
    remove: Sequence[str] = (),
) -> pa.Table:
    """Return the items after a change: those that stay in their order, replaced ones in their rows, new ones last.

    Args:
        items: a row per item; see :attr:`Bundle.items`.
        add: new items: ``item``, ``sid``, and any other column of ``items`` (null if left out). A new item has had no
            interactions.
        replace: other values of items that are there; what is left out stays.
        remove: names of items.

    Raises:
        ValueError: if an item is added that is there, replaced or removed though it is not, or named twice; or if a
            value does not fit its column.

    >>> items = pa.table({"item": ["x", "y"], "sid": [["<a_1>"], ["<a_2>"]], POPULARITY: [5, 7]})
    >>> edited = edit_items(items, [{"item": "z", "sid": ["<a_1>"]}], [{"item": "y", "sid": ["<a_3>"]}], ["x"])
    >>> edited.to_pylist()[0]
    {'item': 'y', 'sid': ['<a_3>'], 'train_interactions': 7}
    >>> edited.to_pylist()[1]
    {'item': 'z', 'sid': ['<a_1>'], 'train_interactions': 0}
    """
    row_of = {name: row for row, name in enumerate(items["item"].to_pylist())}
    added, replaced = ([_checked(item, items.schema) for item in part] for part in (add, replace))
    counts = Counter([*added, *replaced, *remove])
    for name, count in counts.items():
        if count > 1:
            raise ValueError(f"item {name!r} is named {count} times; say once what becomes of it")
        if name not in row_of and name not in added:
            raise ValueError(f"item {name!r} cannot be replaced or removed: the catalog does not have it")
    for name in added:
        if name in row_of:
            raise ValueError(f"item {name!r} cannot be added: the catalog has it; replace it")
    before = items.take(_rows(row_of, replaced)).to_pylist()
    changed = [{**old, **new} for old, new in zip(before, replace, strict=True)]
    changed += [{POPULARITY: 0, **item} for item in add]
    rows = np.arange(items.num_rows)
    rows[_rows(row_of, replaced)] = items.num_rows + np.arange(len(replaced))
    rows = np.delete(rows, _rows(row_of, remove))
    rows = np.append(rows, items.num_rows + len(replaced) + np.arange(len(added)))
    if not len(rows):
        raise ValueError("the change would remove all items")
    return pa.concat_tables([items, _table(changed, items.schema)]).take(rows).combine_chunks()


def _rows(row_of: Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    return np.array([row_of[name] for name in names], np.int64)


def _checked(item: Mapping[str, Any], schema: pa.Schema) -> str:
    """Return the name of an item whose columns are known."""
    if not isinstance(item.get("item"), str):
        raise ValueError(f"an item has the name {item.get('item')!r}; expected a text under the key item")
    if unknown := sorted(item.keys() - set(schema.names)):
        raise ValueError(f"item {item['item']!r} has {unknown[0]!r}; the columns of the catalog are {schema.names}")
    if not (item.get(POPULARITY) or 0) >= 0:
        raise ValueError(f"item {item['item']!r} has {POPULARITY} {item[POPULARITY]}; expected 0 or more")
    return item["item"]


def _table(items: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = {}
    for field in schema:
        try:
            columns[field.name] = pa.array([item.get(field.name) for item in items], field.type)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise ValueError(f"column {field.name!r} of the items is {field.type}: {error}") from error
    return pa.table(columns, schema=schema)
