"""The item files of LC-Rec and of those who took its layout: ``X.index.json`` and ``X.item.json``."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from atspeed.data.dataset import item_table
from atspeed.data.sources.code_columns import require_as_many_codes
from atspeed.data.sources.text_files import read_json_object, require_file, require_folder

log = logging.getLogger(__name__)
EXPECTED = 'a JSON object, item → list of codes, such as {"0": ["<a_3>", "<b_7>"]}'


def find_index(folder: Path, setting: str, dataset: str | None) -> Path:
    """Return the file ``X.index.json`` of a folder.

    Args:
        folder: the folder.
        setting: the setting that names it, for errors.
        dataset: what ``X`` is; by default what it is in the only such file.

    Raises:
        FileNotFoundError: if there is no such folder, or not exactly one such file.
    """
    require_folder(folder, setting)
    if dataset is not None:
        file = folder / f"{dataset}.index.json"
        require_file(file, EXPECTED)
        return file
    files = sorted(folder.glob("*.index.json"))
    if len(files) != 1:
        raise FileNotFoundError(
            f"{setting} {str(folder)!r} must hold one *.index.json (or data.source.dataset must say which); found "
            f"{[file.name for file in files]}"
        )
    return files[0]


def dataset_of(index: Path) -> str:
    """Return what ``X`` is in the name of a file ``X.index.json``."""
    return index.name.removesuffix(".index.json")


def read_items(index: Path) -> tuple[pa.Table, Counter[str]]:
    """Read an index file and, if there is one, the metadata beside it.

    Metadata that is not text is kept as JSON text.

    Args:
        index: ``X.index.json``, item → list of codes; ``X.item.json`` is item → name → value.

    Returns:
        The items, see :attr:`Dataset.items`, in the order of the index; and what is left out, for
        :attr:`Dataset.skipped`: items of ``X.item.json`` that are not in the index.

    Raises:
        ValueError: if a file holds something else, or semantic IDs of different lengths.
    """
    try:
        sids = read_json_object(index)
    except ValueError as error:
        raise ValueError(f"{index}: expected {EXPECTED}: {error}") from error
    for name, codes in sids.items():
        if not isinstance(codes, list) or not codes or not all(isinstance(code, str) for code in codes):
            raise ValueError(f"{index}: item {name!r} has {codes!r}; expected a list of codes")
    items = item_table(sids, sids.values())
    require_as_many_codes(index, items)
    known = index.with_name(f"{dataset_of(index)}.item.json")
    if not known.is_file():
        return items, Counter()
    metadata, left_out = _read_metadata(known, sids)
    for name, column in metadata.items():
        items = items.append_column(name, pa.array(column, pa.string()))
    return items, left_out


def _read_metadata(file: Path, sids: dict[str, Any]) -> tuple[dict[str, list[str | None]], Counter[str]]:
    """Return each metadata column, in the order of ``sids``."""
    expected = 'expected a JSON object, item → metadata, such as {"0": {"title": "Olive soap"}}'
    try:
        content = read_json_object(file)
    except ValueError as error:
        raise ValueError(f"{file}: {expected}: {error}") from error
    wrong = [name for name, values in content.items() if not isinstance(values, dict)]
    if wrong:
        raise ValueError(f"{file}: {expected}, but item {wrong[0]!r} has {content[wrong[0]]!r}")
    left_out = Counter({f"items of {file.name} without semantic ID": len(content.keys() - sids.keys())})
    if left_out.total():
        log.warning("%s: left out %d items that have no semantic ID", file, left_out.total())
    columns = dict.fromkeys(name for values in content.values() for name in values)
    if columns.keys() & {"item", "sid"}:
        raise ValueError(f"{file}: metadata must not be called 'item' or 'sid'")
    return {name: [_text(content.get(item, {}).get(name)) for item in sids] for name in columns}, +left_out


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
