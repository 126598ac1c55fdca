import numpy as np
import pyarrow as pa
import pytest

from atspeed.catalog.written_codes import read_codes, write_sids


def test_codes_are_written_with_the_letter_of_their_level_and_read_again() -> None:
    codes = np.array([[12, 3, 0], [0, 255, 7]], np.int32)
    table = write_sids(["soap", "comb"], codes)
    assert table.to_pylist() == [
        {"item": "soap", "sid": ["<a_12>", "<b_3>", "<c_0>"]},
        {"item": "comb", "sid": ["<a_0>", "<b_255>", "<c_7>"]},
    ]
    assert table.schema.field("sid").type == pa.list_(pa.string())
    assert np.array_equal(read_codes(table), codes)
    assert read_codes(table).dtype == np.int32
    assert np.array_equal(read_codes(table.slice(1)), codes[1:])


@pytest.mark.parametrize(
    ("sids", "fault"),
    [
        ([["<a_1>", "<b_1>"], ["<a_1>"]], r"lengths \[2, 1\]"),
        ([["<b_1>", "<a_1>"]], "letter"),
        ([["a_1", "b_1"]], "_1"),
        ([["<a_01>"]], "letter"),
        ([[]], r"lengths \[0\]"),
        ([], r"lengths \[\]"),
        ([None], r"lengths \[None\]"),
    ],
)
def test_other_codes_are_refused(sids: list, fault: str) -> None:
    table = pa.table({"item": [f"{row}" for row in range(len(sids))], "sid": pa.array(sids, pa.list_(pa.string()))})
    with pytest.raises(ValueError, match=f"semantic IDs like <a_12> <b_3> are expected, of one length: .*{fault}"):
        read_codes(table)
