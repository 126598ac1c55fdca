"""``prepare``, end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from atspeed.data import AtSpeedLayout, EmbeddedCatalog, InteractionSource, Prepared
from atspeed.data.fingerprint import fingerprint
from tests.cli.running import SMALL_DATA, run_here


def assert_prepared(out: Path, source: InteractionSource) -> dict:
    report = json.loads((out / "report" / "report.json").read_text())
    assert report["fingerprint"] == fingerprint(source.load()) == fingerprint(Prepared(out).load())
    assert (out / "report" / "report.png").stat().st_size > 10_000
    return report


@pytest.mark.e2e
def test_the_embedded_catalog_is_prepared_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    shown = run_here("prepare", *SMALL_DATA, "--out", str(out))
    report = assert_prepared(out, EmbeddedCatalog(40, 140))
    assert (report["users"], report["items"], report["sids"]["num_levels"]) == (40, 140, 4)
    assert report["origin"]["class_path"].endswith(".EmbeddedCatalog")
    assert report["origin"]["init_args"] == {"num_users": 40, "num_items": 140, "num_tastes": 16, "seed": 0}
    assert report["environment"]["versions"]["torch"]
    assert report["trie_drafter"][3]["target_calls"] == {"least": 1, "mean": 1.0, "most": 1}
    for words in ("140 semantic IDs of 4 codes", "TrieDrafter of 256 nodes", report["conclusion"], f"written to {out}"):
        assert words in shown
    assert [file.name for file in out.parent.iterdir()] == ["data"], "no temporary folder is left"


@pytest.mark.e2e
def test_a_layout_is_prepared_from_a_config(write_layout: Callable[..., Path], tmp_path: Path) -> None:
    layout, out = write_layout(train="7 1 2 3\n8 5\n9 1\n"), tmp_path / "out"
    config = tmp_path / "data.yaml"
    settings = {"class_path": "AtSpeedLayout", "init_args": {"root": str(layout), "skip_malformed": True}}
    config.write_text(json.dumps({"data": {"source": settings}, "writer": {"class_path": "PreparedWriter"}}))
    shown = run_here("prepare", "--config", str(config), "--out", str(out))
    report = assert_prepared(out, AtSpeedLayout(layout, skip_malformed=True))
    skipped = {f"malformed lines of sequential_{split}.txt": 1 for split in ("train", "valid", "test")}
    assert report["skipped"] == json.loads((out / "dataset.json").read_text())["skipped"] == skipped
    assert "left out: malformed lines of sequential_train.txt" in shown
    assert "nothing is written" in run_here("prepare", "--config", str(config), "--out", str(out))


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train": None}, "sequential_train.txt is missing"),
        ({"train": "7 1 x\n"}, "sequential_train.txt:1: item 'x' has no semantic ID"),
        ({"sids": '{"0": ["<a>"], "1": ["<a>", "<b>"]}', "train": "7 1 2\n", "valid": "", "test": ""}, "same length"),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing(
    write_layout: Callable[..., Path], tmp_path: Path, replaced: dict[str, str | None], message: str
) -> None:
    source = ["--data.source", "AtSpeedLayout", "--data.source.root", str(write_layout(**replaced))]
    shown = run_here("prepare", *source, "--out", str(tmp_path / "new" / "out"), code=1).splitlines()
    assert shown[0].startswith("error: ")
    assert message in shown[0]
    assert shown[1:] == ["(ATSPEED_TRACEBACK=1 shows where it was raised)"]
    assert [file.name for file in tmp_path.iterdir()] == ["layout"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x"], "data.source"),
        (["--data.source", "EmbeddedCatalog"], "out"),
        (
            ["--data.source", "EmbeddedCatalog", "--out", "x", "--data.max_history", "3"],
            "no setting 'data.max_history'",
        ),
        (["--data.source", "EmbeddedCatalog", "--out", "x", "--writer", "PreparedWritr"], "mean 'PreparedWriter'?"),
    ],
)
def test_a_wrong_command_line_is_explained(arguments: list[str], message: str) -> None:
    shown = run_here("prepare", *arguments, code=2)
    assert message in shown.splitlines()[0]
    assert "prepare --help shows the options" in shown
