"""How the command line behaves when something is wrong or interrupted, and when its output is no terminal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from atspeed.cli.commands import run
from atspeed.cli.main import main
from atspeed.cli.messages import explained_errors
from atspeed.cli.shipped_configs import CONFIGS
from atspeed.cli.trainer_cli import AtSpeedCLI
from atspeed.data import EmbeddedCatalog
from tests.cli.running import SMALL_MODEL, run_here, run_process


def config(name: str) -> list[str]:
    return ["--config", str(CONFIGS / f"{name}.yaml")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fit", *config("target"), "--model.learning_rat", "3"],
            "FineTuning has no setting 'learning_rat'; did you mean 'learning_rate'?",
        ),
        (
            ["predict", *config("recommend"), "--model.drafter.batch_sise", "3"],
            "PriceAwareDrafter has no setting 'batch_sise'; did you mean 'batch_size'?",
        ),
        (
            ["predict", *config("recommend"), "--model.drafter", "TrieDraftr"],
            "there is no class 'TrieDraftr'; did you mean 'TrieDrafter'?",
        ),
        (
            ["fit", *config("target"), "--data.source", "Interactions", "--data.source.split", "GlobalTme"],
            "there is no class 'GlobalTme'; did you mean 'GlobalTime'?",
        ),
        (
            ["predict", *config("recommend"), "--data.sorce", "x"],
            "there is no setting 'data.sorce'; did you mean 'data.source'?",
        ),
        (
            ["benchmark", *config("benchmark"), "--number_beams", "3"],
            "there is no setting 'number_beams'; did you mean 'num_beams'?",
        ),
        (["predcit", *config("recommend")], "there is no command 'predcit'; did you mean 'predict'?"),
        (["benchmarks"], "did you mean 'benchmark'?"),
        (["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["fit", *config("target"), "--model.warmup_steps", "few"], "Expected a <class 'int'>. Got value: few"),
    ],
)
def test_the_command_line_says_what_was_meant(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "--help shows" in shown
    assert "usage:" not in shown
    assert len(shown.splitlines()) < 12


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("num_beams:", "num_beam:", "Inference has no setting 'num_beam'; did you mean 'num_beams'?"),
        ("  precision:", "  precison:", "there is no setting 'trainer.precison'; did you mean 'trainer.precision'?"),
        ("data:", "dato:", "there is no setting 'dato.source'; did you mean 'data.source'?"),
        ("batch_size:", "batch_sise:", "PriceAwareDrafter has no setting 'batch_sise'; did you mean 'batch_size'?"),
    ],
)
def test_a_config_says_what_was_meant(
    right: str, wrong: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (CONFIGS / "recommend.yaml").read_text()
    assert right in text
    file = tmp_path / "wrong.yaml"
    file.write_text(text.replace(right, wrong))
    with pytest.raises(SystemExit) as exit_:
        main(["predict", "--config", str(file)])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_of_our_own_code_are_shown_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as exit_, explained_errors():
        EmbeddedCatalog(num_users=0)
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("error: data.source.num_users is 0; expected 1 or more\n")
    with pytest.raises(ValueError, match="invalid literal"), explained_errors():
        int("a fault of somebody else")
    monkeypatch.setenv("ATSPEED_TRACEBACK", "1")
    with pytest.raises(ValueError, match="num_users"), explained_errors():
        EmbeddedCatalog(num_users=0)


def test_exit_codes_are_kept_but_for_an_interrupt() -> None:
    for code in (0, 2):
        with pytest.raises(SystemExit) as exit_, explained_errors():
            sys.exit(code)
        assert exit_.value.code == code
    with pytest.raises(SystemExit) as exit_, explained_errors():
        raise KeyboardInterrupt
    assert exit_.value.code == 130


class Interrupt(pl.Callback):
    """Ctrl-C in the middle of the first epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


def fit(run_dir: Path, *more: str) -> list[str]:
    data = ["--data.source", "EmbeddedCatalog", "--data.source.num_users", "80", "--data.source.num_items", "140"]
    run = ["--trainer.default_root_dir", str(run_dir), "--trainer.accelerator", "cpu", "--data.max_tokens", "512"]
    return ["fit", *config("target"), *data, *SMALL_MODEL, *run, *more]


def test_an_interrupted_fit_leaves_a_checkpoint_to_resume_from(tmp_path: Path) -> None:
    interrupt = ["--trainer.callbacks+", "tests.cli.test_messages.Interrupt"]
    with pytest.raises(SystemExit) as exit_, explained_errors():
        AtSpeedCLI(fit(tmp_path, *interrupt))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the Trainer ignores further ones
    assert exit_.value.code == 130
    last = tmp_path / "target" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert not (tmp_path / "target" / "model").exists()
    AtSpeedCLI(fit(tmp_path, "--ckpt_path", "last", "--trainer.max_steps", "5"))
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert (tmp_path / "target" / "model" / "model.safetensors").is_file()


class Terminate(pl.Callback):
    """A SIGTERM after three batches, as a scheduler sends it."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_terminated_fit_leaves_a_checkpoint_and_does_not_look_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(fit(tmp_path, "--trainer.callbacks+", "tests.cli.test_messages.Terminate"))
    assert exit_.value.code == 143
    assert "terminated; fit resumes with --ckpt_path last" in capsys.readouterr().err
    assert (tmp_path / "target" / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "target" / "model").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_ctrl_c_in_a_real_fit_whose_output_is_no_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atspeed", *fit(tmp_path, "--trainer.max_epochs", "1000")]
    last = tmp_path / "target" / "checkpoints" / "last.ckpt"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + 300
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "interrupted; fit resumes with --ckpt_path last" in output
    assert "Traceback" not in output
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not (tmp_path / "target" / "model").exists()
    assert not {"\x1b", "\r", "\b"} & set(output), "no control characters"
    lines = output.splitlines()
    epochs = [line for line in lines if line.startswith("target: epoch ")]
    assert len(epochs) > 1, output
    assert len(lines) - len(epochs) < 20, output


@pytest.mark.e2e
def test_exit_codes_of_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ["predict", *config("recommend"), "--trainer.default_root_dir", str(tmp_path)]
    shown = run_process(*missing, code=1)
    assert "error: " in shown
    assert "python -m atspeed fit --config configs/target.yaml" in shown
    assert "Traceback" not in shown
    run_here(*missing, "--model.num_beam", "3", code=2)
    monkeypatch.setenv("ATSPEED_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        run_here(*missing)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("code", "arguments", "message"),
    [
        (1, ["fit", *config("strict")], "python -m atspeed fit --config configs/target.yaml"),
        (2, ["benchmark", *config("benchmark"), "--num_beams", "[0]"], "num_beams[0] is 0"),
        (2, ["fit", *config("target"), "--data.source.root", "x"], "root"),
        (2, ["quickstart", "--epochs", "3"], "only --out and --data"),
    ],
)
def test_bad_input_gets_a_clear_error(code: int, arguments: list[str], message: str, tmp_path: Path) -> None:
    run_dir = {"fit": "--trainer.default_root_dir", "benchmark": "--out", "quickstart": "--out"}[arguments[0]]
    assert message in run_here(*arguments, run_dir, str(tmp_path), code=code)
