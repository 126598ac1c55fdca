from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atspeed.data import OpenOneRecLayout

USERS = {
    "uid": [11, 12, 13],
    "split": [0, 1, 0],
    "hist_video_pid": [[70, 90, 70, 0, 0], [80, 0], None],
    "target_video_pid": [[80, 0], [90, 70], [90]],
}
SIDS = {"pid": [60, 70, 80, 90], "sid": [[340, 6566, 5603], [1, 2, 3], [1, 2, 4], [8191, 0, 3]]}
FILES = {"users": "onerec_bench_release.parquet", "sids": "video_ad_pid2sid.parquet"}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small data set; keyword arguments replace columns."""

    def write(**replaced: Any) -> Path:
        for name, columns in (("users", USERS), ("sids", SIDS)):
            kept = {column: replaced.get(column, values) for column, values in columns.items()}
            table = pa.table({column: values for column, values in kept.items() if values is not None})
            pq.write_table(table, tmp_path / FILES[name])
        return tmp_path

    return write


def test_histories_and_targets_are_read_without_padding(write: Callable[..., Path]) -> None:
    data = OpenOneRecLayout(write()).load()
    assert data.users == ["11", "12", "13"]
    assert data.items.to_pydict() == {
        "item": ["70", "90", "80", "60"],
        "sid": [
            ["<s_a_1>", "<s_b_2>", "<s_c_3>"],
            ["<s_a_8191>", "<s_b_0>", "<s_c_3>"],
            ["<s_a_1>", "<s_b_2>", "<s_c_4>"],
            ["<s_a_340>", "<s_b_6566>", "<s_c_5603>"],
        ],
    }
    assert data.train.tolist() == [[0, 1, 0, 2], [2], [1]], "targets of split 0 are for training"
    assert data.valid.tolist() == [[], [], []]
    assert data.test.tolist() == [[], [1, 0], []]
    assert data.skipped == {}


def test_item_0_is_an_item_if_it_has_a_semantic_id(write: Callable[..., Path]) -> None:
    data = OpenOneRecLayout(write(pid=[0, 70, 80, 90])).load()
    assert [data.items["item"][item].as_py() for item in data.train[1]] == ["80", "0"]


def test_targets_are_tested_if_all_rows_have_split_0(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    data = OpenOneRecLayout(write(split=[0, 0, 0])).load()
    assert (data.train.tolist(), data.test.tolist()) == ([[0, 1, 0], [2], []], [[2], [1, 0], [1]])
    assert "all rows have split 0; their targets are for testing" in caplog.text


def test_semantic_ids_may_be_text(write: Callable[..., Path]) -> None:
    numbers = OpenOneRecLayout(write()).load()
    sids = ["<|sid_begin|>" + "<s_a_{}><s_b_{}><s_c_{}>".format(*sid) + "<|sid_end|>" for sid in SIDS["sid"]]
    text = OpenOneRecLayout(write(sid=sids)).load()
    assert text.items.equals(numbers.items)


def test_files_may_be_folders_of_parts(write: Callable[..., Path]) -> None:
    folder = write()
    table = pq.read_table(folder / FILES["users"])
    (folder / "users").mkdir()
    for part in range(3):
        pq.write_table(table.slice(part, 1), folder / "users" / f"part-{part}.parquet")
    data = OpenOneRecLayout(folder, interactions="users").load()
    assert data.train.tolist() == [[0, 1, 0, 2], [2], [1]]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"uid": None}, "onerec_bench_release.parquet: the column 'uid' is missing; expected Parquet with the columns"),
        ({"sid": None}, "video_ad_pid2sid.parquet: the column 'sid' is missing; expected Parquet with the columns pid"),
        ({"uid": [1.0, 2.0, float("nan")]}, "onerec_.*: the column 'uid' holds double; expected whole numbers or text"),
        ({"split": ["0", "1", "0"]}, "onerec_.*: the column 'split' holds string; expected whole numbers"),
        ({"uid": [11, 12, 11]}, "onerec_bench_release.parquet:3: user '11' has a second row; .*skip_malformed"),
        ({"uid": [11, None, 13]}, "onerec_bench_release.parquet:2: the row has no uid or no split"),
        ({"split": [0, None, 0]}, "onerec_bench_release.parquet:2: the row has no uid or no split"),
        ({"hist_video_pid": [70, 80, 90]}, "onerec_.*: the column 'hist_video_pid or .*' holds int64; expected lists"),
        ({"hist_video_pid": [[7.5], [], []]}, "onerec_.*: the column .* holds double; expected whole numbers or text"),
        ({"hist_video_pid": [[70, None], [], []]}, "onerec_.*: 1 items of the lists .* are missing"),
        ({"hist_video_pid": [[55, 70], [55], []]}, "onerec_.*: item '55' has no semantic ID, and 2 interactions"),
        ({"hist_video_pid": [[0], [], []], "target_video_pid": [[0]] * 3}, "onerec_.*parquet has no interaction"),
        ({"pid": [60, 70, 60, 90]}, "video_ad_pid2sid.parquet: item '60' is there twice"),
        ({"pid": [60, 70, None, 90]}, "video_ad_pid2sid.parquet: 1 rows name no item"),
        ({"sid": [[1, 2], *SIDS["sid"][1:]]}, "video_ad_.*: each item must .* codes; item '60' has 2, item '70' has 3"),
        ({"sid": [[1, None, 3], *SIDS["sid"][1:]]}, "video_ad_pid2sid.parquet: 1 codes are missing"),
        ({"sid": [[1.5], [1.0], [1.0], [2.0]]}, "video_ad_pid2sid.parquet: the column 'sid' holds list<.*double>; exp"),
        ({"sid": [1, 2, 3, 4]}, "video_ad_pid2sid.parquet: the column 'sid' holds int64; expected"),
    ],
)
def test_bad_files_are_refused_by_name(write: Callable[..., Path], replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenOneRecLayout(write(**replaced)).load()


def test_missing_and_damaged_files_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data.source.root .*nowhere' is not a folder"):
        OpenOneRecLayout(tmp_path / "nowhere").load()
    with pytest.raises(FileNotFoundError, match="video_ad_pid2sid.parquet is missing; expected Parquet"):
        OpenOneRecLayout(tmp_path).load()
    users = write() / FILES["users"]
    users.write_bytes(users.read_bytes()[:-9])
    with pytest.raises(ValueError, match="onerec_bench_release.parquet: not Parquet, damaged or truncated: "):
        OpenOneRecLayout(tmp_path).load()


def test_malformed_rows_and_unknown_items_are_skipped_and_counted(write: Callable[..., Path]) -> None:
    users = {"uid": [11, 12, 11], "hist_video_pid": [[55, 70], [55], [80]]}
    data = OpenOneRecLayout(write(**users), skip_malformed=True).load()
    assert (data.users, data.train.tolist()) == (["11", "12"], [[0, 1], []])
    assert data.skipped == {
        "malformed lines of onerec_bench_release.parquet": 1,
        "items without semantic ID": 1,
        "interactions with an item without semantic ID": 2,
    }
