"""Which stages quickstart runs, with which options, and what it says."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from atspeed.cli.quickstart import DURATION, SETTINGS, quickstart
from atspeed.cli.shipped_configs import CONFIGS
from atspeed.data.dataset import item_table
from atspeed.models import model_folder


def run(run_dir: Path, *options: str, sids: bool = True) -> list[list[str]]:
    """Run quickstart with a command line that only makes files that are looked for; return the command lines.

    Args:
        run_dir: the run folder.
        options: of the command.
        sids: whether the items of the data set have semantic IDs.
    """
    lines: list[list[str]] = []

    def main(args: list[str]) -> None:
        lines.append(args)
        if args[0] == "fit":
            model_folder(run_dir, Path(args[2]).stem).mkdir(parents=True, exist_ok=True)
        elif args[0] == "prepare":
            (run_dir / "data").mkdir(exist_ok=True)
            items = item_table(["soap"] * 1000, [["<a_1>"]] * 1000 if sids else None)
            pq.write_table(items, run_dir / "data" / "items.parquet")
        elif args[0] == "semantic-ids":
            (run_dir / "semantic-ids").mkdir()
            (run_dir / "semantic-ids" / "sids.parquet").touch()

    quickstart(["--out", str(run_dir), *options], main)
    return lines


def names(lines: list[list[str]]) -> list[str]:
    return [Path(line[2]).stem for line in lines]


def test_all_stages_run_in_order_on_the_same_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, *lines = run(tmp_path, "--data.source", "AtSpeedLayout", "--data.max_history", "9", "--data.source.root=x")
    out = str(tmp_path / "data")
    assert prepare == ["prepare", "--data.source", "AtSpeedLayout", "--data.source.root=x", "--out", out]
    data = ["--data.source", "Prepared", "--data.source.root", out, "--data.max_history", "9"]
    assert [line[0] for line in lines] == ["fit", "fit", "fit", "benchmark", "test"]
    assert names(lines) == ["target", "draft", "strict", "benchmark", "recommend"]
    for line, stage in zip(lines, names(lines), strict=True):
        assert line[1:3] == ["--config", str(CONFIGS / f"{stage}.yaml")]
        extra = SETTINGS.get(stage, [])
        assert line[3 : 3 + len(extra)] == extra
        assert str(tmp_path) in line
        assert line[-6:] == data
    shown = capsys.readouterr().out.splitlines()
    assert DURATION in shown[0]
    assert [re.sub(r"\d+", "0", line) for line in shown[1:7]] == [
        *(f"{name}: done in 0 s" for name in ("target", "draft", "strict", "benchmark", "test")),
        "everything: done in 0 s",
    ]


def test_items_without_semantic_ids_get_some_once(tmp_path: Path) -> None:
    options = "--data.source", "Interactions", "--data.source.path", "ratings.csv"
    prepared = ["--data.source", "Prepared", "--data.source.root", str(tmp_path / "data")]
    out = tmp_path / "semantic-ids"
    _, semantic_ids, *lines = run(tmp_path, *options, sids=False)
    assert semantic_ids == ["semantic-ids", *prepared, "--out", str(out), "--codes", "32"]
    assert all(line[-6:] == [*prepared, "--data.source.sids", str(out / "sids.parquet")] for line in lines)
    again = run(tmp_path, *options, sids=False)
    assert [line[0] for line in again] == ["prepare", "benchmark", "test"]
    assert again[1][-6:] == lines[0][-6:]


def test_finished_stages_are_skipped_and_what_they_feed_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert names(run(tmp_path)) == ["benchmark", "recommend"]
    assert capsys.readouterr().out.count(": skipped, ") == 3
    model_folder(tmp_path, "draft").rmdir()
    assert names(run(tmp_path)) == ["draft", "strict", "benchmark", "recommend"]


def test_an_interrupted_stage_resumes_from_its_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    capsys.readouterr()
    for stage in ("draft", "strict"):
        model_folder(tmp_path, stage).rmdir()
        (tmp_path / stage / "checkpoints").mkdir()
        (tmp_path / stage / "checkpoints" / "last.ckpt").touch()
    draft, strict, *_ = run(tmp_path)
    assert draft[-2:] == ["--ckpt_path", "last"]
    assert "--ckpt_path" not in strict  # its checkpoint started from the draft of before
    assert "draft: resumed and done in 0 s" in capsys.readouterr().out
