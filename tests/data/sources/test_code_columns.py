from pathlib import Path

import pyarrow as pa
import pytest

from atspeed.data.dataset import item_table
from atspeed.data.sources.code_columns import require_as_many_codes, split_codes


def test_codes_written_together_are_split() -> None:
    written = pa.chunked_array([["<a_202><b_147><c_0>"], ["<|sid_begin|><s_a_340><s_b_6566><|sid_end|>", None]])
    assert split_codes(written).to_pylist() == [["<a_202>", "<b_147>", "<c_0>"], ["<s_a_340>", "<s_b_6566>"], None]


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        ([["<a_1>"], ["<a_1>", "<b_1>"]], "f.json: each item must have .*; item 'x' has 1, item 'y' has 2"),
        ([["<a_1>"], None], "f.json: each item must have .*; item 'x' has 1, item 'y' has 0"),
        ([[], []], "f.json: each item must have .*; item 'x' has 0"),
    ],
)
def test_different_numbers_of_codes_are_refused(sids: list[list[str] | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_as_many_codes(Path("f.json"), item_table(["x", "y"], sids))
