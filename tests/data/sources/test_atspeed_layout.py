import json
from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import AtSpeedLayout


def test_layout_is_read_with_its_two_numberings(write_layout: Callable[..., Path]) -> None:
    data = AtSpeedLayout(write_layout()).load()
    assert data.users == ["7", "8", "9"]
    assert data.catalog.names == ("1", "2", "3", "4")
    assert data.catalog.sid(data.catalog.index("1")) == ("<a_1>", "<b_2>"), (
        "item 1 of the sequences is number 0 of the SIDs"
    )
    assert data.train.tolist() == [[0, 1, 2], [3, 0], [1, 1, 2, 3]]
    assert data.valid.tolist() == [[3], [], [0, 1]]
    assert data.test.tolist() == [[1, 0, 1], [], [2]]


def test_beauty_is_read_whole(beauty: Path) -> None:
    data = AtSpeedLayout(beauty).load()
    assert (len(data.users), data.catalog.num_items, data.catalog.num_levels) == (19_383, 12_035, 4)
    assert len(data.train.values) == 122_241
    assert sum(1 for items in data.test if len(items)) == 3_553
    assert data.catalog.codes.unique(dim=0).shape[0] == 12_023
    assert data.catalog.names[0] == "1"


@pytest.mark.parametrize(
    ("replaced", "error", "message"),
    [
        ({"train": None}, FileNotFoundError, "sequential_train.txt is missing"),
        ({"test": None}, FileNotFoundError, "sequential_test.txt is missing"),
        ({"train": ""}, ValueError, "sequential_train.txt' has no interaction|sequential_train.txt has no interaction"),
        ({"sids": None}, FileNotFoundError, "must hold one \\*.json with semantic IDs"),
        ({"sids": ""}, ValueError, "items.json: expected a JSON object"),
        ({"sids": "[1]"}, ValueError, "items.json: expected a JSON object"),
        ({"sids": '{"0": ["<a_1>"], "0": ["<a_2>"]}'}, ValueError, "items.json: .* the key '0' is there twice"),
        ({"sids": "{}", "train": "7\n", "valid": "", "test": ""}, ValueError, "train.txt has no interaction"),
        (
            {
                "sids": json.dumps({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}),
                **{"train": "7 1 2\n", "valid": "", "test": ""},
            },
            ValueError,
            "all must have the same length",
        ),
        ({"train": "7 1 2 3\n8 5\n9 1\n"}, ValueError, "train.txt:2: item '5' has no semantic ID"),
        ({"train": "7 1 x\n8 1\n9 1\n"}, ValueError, "train.txt:1: item 'x' has no semantic ID"),
        ({"valid": "7 4\n10 1\n"}, ValueError, "sequential_valid.txt:2: user '10' has no line in sequential_train.txt"),
        ({"test": "7 4\n7 1\n"}, ValueError, "test.txt:2: user '7' has a second line"),
    ],
)
def test_bad_files_are_refused_by_name(
    write_layout: Callable[..., Path], replaced: dict[str, str | None], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        AtSpeedLayout(write_layout(**replaced)).load().catalog  # noqa: B018


def test_missing_folder_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data\.source\.root .*nowhere' is not a folder"):
        AtSpeedLayout(tmp_path / "nowhere").load()


def test_two_sid_files_need_a_choice(write_layout: Callable[..., Path]) -> None:
    folder = write_layout()
    (folder / "other.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"sids must name it\); found \['items.json', 'other.json'\]"):
        AtSpeedLayout(folder).load()
    assert AtSpeedLayout(folder, sids="items.json").load().catalog.num_items == 4


def test_malformed_lines_are_skipped_and_counted(write_layout: Callable[..., Path]) -> None:
    folder = write_layout(train="7 1 2 3\n8 5\n9 1\n", test="7 4\n10 1\n")
    data = AtSpeedLayout(folder, skip_malformed=True).load()
    assert data.users == ["7", "9"]
    assert data.skipped == {
        "malformed lines of sequential_train.txt": 1,
        "malformed lines of sequential_valid.txt": 1,  # user 8 has no line to train on any more
        "malformed lines of sequential_test.txt": 1,
    }
