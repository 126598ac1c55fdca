"""The overview, what it imports, and the console command."""

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from atspeed.cli.main import main
from atspeed.cli.overview import COMMANDS
from tests.cli.running import ROOT, run_here


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_command_with_its_purpose(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments)
    shown = capsys.readouterr().out.splitlines()
    for command in COMMANDS:
        assert any(re.fullmatch(rf"  {command} +[A-Z].*\.", line) for line in shown)
    assert {"fit", "test", "predict", "cache-target", "benchmark", "benchmark-alignment", "tune", "quickstart"} <= set(
        COMMANDS
    )
    assert max(map(len, shown)) <= 120


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m atspeed {command} " in shown
    assert COMMANDS[command] in shown


def test_the_help_of_a_class_is_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "Alignment"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("Aligns a draft with the target", "--model.alpha ALPHA", "--model.loss LOSS", "beam"):
        assert words in shown


@pytest.mark.parametrize("arguments", [["--help"], ["quickstart", "--help"]])
def test_the_overview_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "atspeed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)})
    assert "usage: python -m atspeed" in done.stdout
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "atspeed" in imported
    assert not imported & {"torch", "lightning", "transformers", "jsonargparse", "numpy", "matplotlib", "rich"}


def test_the_console_command_finds_classes_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text("from atspeed.losses import ForwardKL\nclass MyLoss(ForwardKL): ...\n")
    code = "from atspeed.cli.main import console; console()"
    arguments = ["fit", "--config", "strict.yaml", "--model.loss", "my_module.MyLoss", "--print_config"]
    # -P: the working directory is not on the path, as in a script that pip installs
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "class_path: my_module.MyLoss" in done.stdout


def test_an_unknown_command_is_a_usage_error() -> None:
    assert "there is no command 'fitt'; did you mean 'fit'?" in run_here("fitt", code=2)
