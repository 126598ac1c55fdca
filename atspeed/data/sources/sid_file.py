"""Semantic IDs of a file, for data sets that come without."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.data.dataset import item_table
from atspeed.data.sources.text_files import read_json_object, require_file

EXPECTED = "a JSON object, item → list of codes, or a Parquet file with the columns item and sid"


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
