"""Files of semantic IDs."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.data.dataset import item_table
from atspeed.data.sources.text_files import read_json_object, require_file

EXPECTED = "a JSON object, item → list of codes, or a Parquet file with the columns item and sid"


def find_sids(root: Path, suffix: str, name: str | None) -> Path:
    """Return the file of semantic IDs in the folder ``data.source.root``.

    Args:
        root: the folder.
        suffix: of the file.
        name: its name; by default it is the only file with the suffix.

    Raises:
        FileNotFoundError: if there is no such file, or there are several.
    """
    found = [root / name] if name else sorted(root.glob(f"*{suffix}"))
    if len(found) != 1 or not found[0].is_file():
        raise FileNotFoundError(
            f"data.source.root {str(root)!r} must hold one *{suffix} with semantic IDs (or data.source.sids must name "
            f"it); found {[file.name for file in found if file.is_file()]}"
        )
    return found[0]


def read_sids(file: Path) -> pa.Table:
    """Return the semantic IDs of a file, by item name.

    Args:
        file: a JSON object, item → list of codes (``*.json``), or columns ``item`` and ``sid`` (``*.parquet``).

    Returns:
        Columns ``item`` and ``sid``; see :attr:`Dataset.items`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
    """
    require_file(file, EXPECTED)
    try:
        if file.suffix == ".parquet":
            table = pq.read_table(file, columns=["item", "sid"])
            return table.cast(pa.schema({"item": pa.string(), "sid": pa.list_(pa.string())}))
        content = read_json_object(file)
        return item_table(content, content.values())
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{file}: expected {EXPECTED}: {error}") from error
