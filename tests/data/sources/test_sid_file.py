import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atspeed.data.sources.sid_file import read_sids


def test_both_formats_hold_the_same(tmp_path: Path) -> None:
    (tmp_path / "sids.json").write_text(json.dumps({"soap": ["<a_1>", "<b_2>"], "comb": ["<a_2>", "<b_2>"]}))
    table = read_sids(tmp_path / "sids.json")
    assert table.to_pydict() == {"item": ["soap", "comb"], "sid": [["<a_1>", "<b_2>"], ["<a_2>", "<b_2>"]]}
    pq.write_table(table, tmp_path / "sids.parquet")
    assert read_sids(tmp_path / "sids.parquet").equals(table)


@pytest.mark.parametrize("content", ["[1]", '{"soap": 1}', '{"soap": [1]}', '{"soap": "<a_1>"', ""])
def test_other_content_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "sids.json").write_text(content)
    with pytest.raises(ValueError, match="sids.json: expected a JSON object, item → list of codes, or a Parquet file"):
        read_sids(tmp_path / "sids.json")


def test_a_parquet_file_needs_both_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item": ["soap"]}), tmp_path / "sids.parquet")
    with pytest.raises(ValueError, match="sids.parquet: expected .* with the columns item and sid"):
        read_sids(tmp_path / "sids.parquet")
    with pytest.raises(FileNotFoundError, match="nowhere.json is missing; expected a JSON object"):
        read_sids(tmp_path / "nowhere.json")
