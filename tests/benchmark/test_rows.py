"""The records against a file that was written before they existed."""

import json
from dataclasses import fields
from pathlib import Path

from atspeed.benchmark.rows import ComparisonResult, ComparisonSetting, DraftCoverageRow, DraftRow, Environment

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def names_of(record: type) -> list[str]:
    return [field.name for field in fields(record)]  # type: ignore[arg-type]


def test_json_files_keep_their_keys_and_their_order() -> None:
    written = json.loads((RESULTS / "alignment-a0c1e15.json").read_text())
    assert list(written) == names_of(ComparisonResult)
    assert list(written["environment"]) == names_of(Environment)
    assert list(written["setting"]) == names_of(ComparisonSetting)
    assert {tuple(row) for row in written["rows"]} == {tuple(names_of(DraftRow))}
    assert {tuple(row) for row in written["coverage"]} == {tuple(names_of(DraftCoverageRow))}
