from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from atspeed.data import GridLayout

CODES = torch.tensor([[3, 0, 3, 1, 2, 2], [7, 12, 7, 0, 1, 255]])
ROWS = {
    "training": [(1, [4, 2, 4]), (2, [0]), (1, [4, 2])],  # user 1 has two rows
    "evaluation": [(2, [0, 5]), (1, [4, 2, 4, 3])],
    "testing": [(1, [4, 2, 4, 3, 1]), (2, [0, 5, 5]), (3, [1, 2])],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small data set; keyword arguments replace the rows of splits and the codes."""

    def write(codes: Any = CODES, **replaced: list[tuple[Any, Any]] | None) -> Path:
        torch.save(codes, tmp_path / "item-sid-mapping.pt")
        for split, rows in {**ROWS, **replaced}.items():
            if rows is not None:
                (tmp_path / split).mkdir()
                columns: dict[str, Any] = {
                    "user_id": [user for user, _ in rows],
                    "sequence_data": [items for _, items in rows],
                }
                if not any(columns["sequence_data"]):
                    columns["sequence_data"] = pa.array(columns["sequence_data"], pa.list_(pa.int64()))
                pq.write_table(pa.table(columns), tmp_path / split / "6.parquet")
        return tmp_path

    return write


def test_the_last_items_of_rows_are_asked_for(write: Callable[..., Path]) -> None:
    data = GridLayout(write()).load()
    assert data.users == ["1", "2", "3"]
    assert data.items["item"].to_pylist() == ["0", "1", "2", "3", "4", "5"]
    assert data.items["sid"].to_pylist()[:2] == [["<a_3>", "<b_7>"], ["<a_0>", "<b_12>"]]
    assert data.train.tolist() == [[4, 2, 4], [0], [1]]
    assert data.valid.tolist() == [[3], [5], []]
    assert data.test.tolist() == [[1], [5], [2]]


@pytest.mark.parametrize(
    ("missing", "train", "valid", "test"),
    [
        ("evaluation", [[4, 2, 4, 3], [0, 5], [1]], [[], [], []], [[1], [5], [2]]),
        ("training", [[0], [4, 2, 4], [1]], [[5], [3], []], [[5], [1], [2]]),
        ("testing", [[4, 2, 4], [0]], [[3], [5]], [[], []]),
    ],
)
def test_missing_splits_are_done_without(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture, missing: str, train: Any, valid: Any, test: Any
) -> None:
    data = GridLayout(write(**{missing: None})).load()
    assert (data.train.tolist(), data.valid.tolist(), data.test.tolist()) == (train, valid, test)
    assert f"has no folder {missing}" in caplog.text


def test_several_rows_of_a_split_ask_for_several_items(write: Callable[..., Path]) -> None:
    data = GridLayout(write(testing=[(1, [4, 2, 4, 3, 1, 0]), (1, [4, 2, 4, 3, 1])])).load()
    assert data.test.tolist() == [[1, 0], []]


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ({"codes": CODES}, "mapping.pt: expected a tensor of whole numbers, .*, not dict"),
        (CODES.float(), r"mapping.pt: expected a tensor of whole numbers, .*, not \[2, 6\] of torch.float32"),
        (CODES.T.contiguous(), r"mapping.pt: expected a tensor of whole numbers, .*, not \[6, 2\] of torch.int64"),
        (CODES[0], r"mapping.pt: expected a tensor of whole numbers, .*, not \[6\] of torch.int64"),
        (CODES > 2, r"mapping.pt: expected a tensor of whole numbers, .*, not \[2, 6\] of torch.bool"),
        (CODES - 1, r"mapping.pt: item 1 has the codes \[-1, 11\]; expected 0 or more"),
        (Path("x"), "mapping.pt: expected a tensor of whole numbers, .*: Weights only load failed"),
    ],
)
def test_other_codes_are_refused(write: Callable[..., Path], codes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridLayout(write(codes)).load()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"training": [(1, [4, 2, 9])]},
            "training:1: it has an item without semantic ID; there are 6, numbered from 0",
        ),
        ({"training": [(1, [4, -1])]}, "training:1: it has an item without semantic ID"),
        ({"training": [(1, [4]), (None, [4])]}, "training:2: the row has no user_id"),
        ({"testing": [(1, [])]}, "testing:1: the row has no item to ask for"),
        ({"testing": [(1, [4, 4, 4, 3, 1])]}, "training:1: it does not begin like the user's longest row"),
        ({"testing": [(1, [4, 2, 4, 3])]}, "evaluation:2: user '1' has an item here that a later split asks for"),
        ({"evaluation": [(1, [4, 2])]}, "training:1: user '1' has an item here that a later split asks for"),
        ({"training": [(1, ["x"])], "evaluation": None, "testing": None}, "sequence_data names items by text"),
        ({"training": [(1, [0.5])]}, "the column 'sequence_data' holds double; expected whole numbers or text"),
        ({"training": [(1.5, [0])]}, "training: the column 'user_id' holds double; expected whole numbers or text"),
        ({"training": [(1, [])], "evaluation": None, "testing": None}, "has no interaction"),
    ],
)
def test_bad_rows_are_refused_by_number(write: Callable[..., Path], replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridLayout(write(**replaced)).load()


def test_missing_and_damaged_files_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.source.root .*nowhere' is not a folder"):
        GridLayout(tmp_path / "nowhere").load()
    with pytest.raises(FileNotFoundError, match=r"must hold one \*.pt with semantic IDs .*; found \[\]"):
        GridLayout(tmp_path).load()
    folder = write(training=None, evaluation=None, testing=None)
    with pytest.raises(FileNotFoundError, match="must hold the folders training, evaluation and testing"):
        GridLayout(folder).load()
    (folder / "training").mkdir()
    with pytest.raises(ValueError, match="training: the column 'user_id' is missing; expected Parquet"):
        GridLayout(folder).load()
    (folder / "training" / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="training: not Parquet, damaged or truncated: "):
        GridLayout(folder).load()
    codes = folder / "item-sid-mapping.pt"
    codes.write_bytes(codes.read_bytes()[:200])
    with pytest.raises(ValueError, match="mapping.pt: expected a tensor of whole numbers"):
        GridLayout(folder).load()


def test_malformed_rows_are_skipped_and_counted(write: Callable[..., Path]) -> None:
    rows = [(1, [4, 2, 9]), (None, [4]), (2, [1]), (2, [0])]
    data = GridLayout(write(training=rows, testing=[(2, [0, 5, 5])]), skip_malformed=True).load()
    assert (data.users, data.train.tolist()) == (["2", "1"], [[0], [4, 2, 4]])
    assert data.skipped == {"malformed lines of training": 3}
