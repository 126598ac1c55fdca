"""Which stages quickstart runs, with which options, and what it says."""

import re
from pathlib import Path

import pytest

from atspeed.cli.quickstart import DURATION, SETTINGS, quickstart
from atspeed.cli.shipped_configs import CONFIGS
from atspeed.models import model_folder


def run(run_dir: Path, *options: str) -> list[list[str]]:
    """Run quickstart with a command line that only makes the folders of models; return the command lines."""
    lines: list[list[str]] = []

    def main(args: list[str]) -> None:
        lines.append(args)
        if args[0] == "fit":
            model_folder(run_dir, Path(args[2]).stem).mkdir(parents=True, exist_ok=True)

    quickstart(["--out", str(run_dir), *options], main)
    return lines


def names(lines: list[list[str]]) -> list[str]:
    return [Path(line[2]).stem for line in lines]


def test_all_stages_run_in_order_on_the_same_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data.source", "AtSpeedLayout", "--data.source.root", "x"]
    lines = run(tmp_path, *data)
    assert names(lines) == ["target", "draft", "strict", "benchmark"]
    for line, stage in zip(lines, names(lines), strict=True):
        assert line[1:3] == ["--config", str(CONFIGS / f"{stage}.yaml")]
        extra = SETTINGS.get(stage, [])
        assert line[3 : 3 + len(extra)] == extra
        assert str(tmp_path) in line
        assert line[-4:] == data
    shown = capsys.readouterr().out.splitlines()
    assert DURATION in shown[0]
    assert [re.sub(r"\d+", "0", line) for line in shown[1:6]] == [
        *(f"{name}: done in 0 s" for name in ("target", "draft", "strict", "benchmark")),
        "everything: done in 0 s",
    ]


def test_finished_stages_are_skipped_and_what_they_feed_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    assert names(run(tmp_path)) == ["benchmark"]
    assert capsys.readouterr().out.count(": skipped, ") == 3
    model_folder(tmp_path, "draft").rmdir()
    assert names(run(tmp_path)) == ["draft", "strict", "benchmark"]


def test_an_interrupted_stage_resumes_from_its_last_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path)
    capsys.readouterr()
    for stage in ("draft", "strict"):
        model_folder(tmp_path, stage).rmdir()
        (tmp_path / stage / "checkpoints").mkdir()
        (tmp_path / stage / "checkpoints" / "last.ckpt").touch()
    draft, strict, _ = run(tmp_path)
    assert draft[-2:] == ["--ckpt_path", "last"]
    assert "--ckpt_path" not in strict  # its checkpoint started from the draft of before
    assert "draft: resumed and done in 0 s" in capsys.readouterr().out
