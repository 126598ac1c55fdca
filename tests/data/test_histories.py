import json
import logging
from pathlib import Path

import pytest

from atspeed.catalog import ItemCatalog
from atspeed.data.histories import read_histories

CATALOG = ItemCatalog({"1": ["<a_1>"], "soap": ["<a_2>"], "comb": ["<a_3>"]})


def write(folder: Path, *lines: str) -> Path:
    file = folder / "histories.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_names_are_strings_or_whole_numbers(tmp_path: Path) -> None:
    file = write(tmp_path, '{"user": "u", "history": ["soap", 1, "1"], "day": 3}', "", '{"user": 7, "history": []}')
    histories = read_histories(file, CATALOG, False)
    assert histories.users == ["u", "7"]
    assert histories.items.tolist() == [[1, 0, 0], []]


@pytest.mark.parametrize(
    "line",
    [
        '{"user": "u"}',
        '{"history": []}',
        '{"user": "u", "history": "soap"}',
        '{"user": "u", "history": [1.5]}',
        '{"user": true, "history": []}',
        '{"user": null, "history": []}',
        '["soap"]',
        "u soap comb",
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_lines_that_are_no_requests_are_refused(tmp_path: Path, line: str, skip: bool) -> None:
    file = write(tmp_path, '{"user": "u", "history": []}', line)
    with pytest.raises(ValueError, match=rf"{file}:2: expected a line like .*, not '") as error:
        read_histories(file, CATALOG, skip)
    assert line in str(error.value)


def test_unknown_items_are_refused_or_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    histories = ["soap", "brush", "comb", "sponge"], ["comb"], ["brush"]
    file = write(tmp_path, *(json.dumps({"user": "u", "history": history}) for history in histories))
    with pytest.raises(ValueError, match=rf"{file}:1: item .brush. is not in the catalog.*data.skip_unknown"):
        read_histories(file, CATALOG, False)
    with caplog.at_level(logging.WARNING):
        assert read_histories(file, CATALOG, True).items.tolist() == [[1, 2], [2], []]
    assert "left out 3 items" in caplog.text


def test_no_request_and_no_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no request"):
        read_histories(write(tmp_path, ""), CATALOG, False)
    with pytest.raises(FileNotFoundError, match=r"data\.histories '.*nowhere' is not a file"):
        read_histories(tmp_path / "nowhere", CATALOG, False)
