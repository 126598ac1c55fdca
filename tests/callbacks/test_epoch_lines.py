"""A line an epoch where the output is no terminal, and none where it is one."""

import re
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest

from atspeed.callbacks import EpochLines
from atspeed.callbacks.epoch_lines import duration
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.models import NewModel
from atspeed.modules import FineTuning
from tests.cli.running import SMALL_DATA, SMALL_MODEL, run_here
from tests.modules.tiny import TINY, fit

LINE = r"target: epoch (\d)( of \d)?, train loss (\S+), learning rate (\S+), \d+ s; about (\d+) s left"


class Losses(pl.Callback):
    """Keeps the losses and the last learning rate that the module has logged and used."""

    def __init__(self) -> None:
        self.epochs: list[list[float]] = []
        self.rates: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        self.epochs.append([])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.epochs[-1].append(trainer.callback_metrics["train/loss"].item())

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def lines_of(caplog: pytest.LogCaptureFixture, tmp_path: Path, *callbacks: pl.Callback, **settings: object) -> list:
    caplog.set_level("INFO", "atspeed.callbacks.epoch_lines")
    module = FineTuning("target", NewModel("llama", TINY), learning_rate=1e-2, warmup_steps=2)
    data = RecommendationData(EmbeddedCatalog(num_users=20, num_items=140), max_tokens=256)
    fit(module, data, tmp_path, callbacks=[*callbacks, EpochLines()], **settings)
    lines = [record.getMessage() for record in caplog.records if record.name == "atspeed.callbacks.epoch_lines"]
    matches = [re.fullmatch(LINE, line) for line in lines]
    assert all(matches), lines
    return [match.groups() for match in matches if match]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_line_has_the_mean_loss_and_the_rate_of_its_epoch(
    accumulated: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    seen = Losses()
    lines = lines_of(caplog, tmp_path, seen, max_epochs=3, accumulate_grad_batches=accumulated)
    assert [(epoch, of) for epoch, of, *_ in lines] == [("1", " of 3"), ("2", " of 3"), ("3", " of 3")]
    assert min(map(len, seen.epochs)) > 1
    for (_, _, loss, rate, _), losses, used in zip(lines, seen.epochs, seen.rates, strict=True):
        assert loss == f"{sum(losses) / len(losses):.3g}"
        assert rate == f"{used:.3g}"
    assert lines[-1][-1] == "0"


def test_the_steps_to_go_decide_over_the_time_left(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    first, second = lines_of(caplog, tmp_path, max_epochs=-1, max_steps=6)
    assert (first[1], second[1]) == (None, None)  # how many epochs these are is not known
    assert second[-1] == "0"


@pytest.mark.parametrize(("out", "err", "lines"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_a_terminal_has_the_progress_bar_instead(
    out: bool, err: bool, lines: int, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)
    assert len(lines_of(caplog, tmp_path)) == lines


def test_only_process_zero_logs(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pl.Trainer, "is_global_zero", False)
    assert lines_of(caplog, tmp_path) == []


@pytest.mark.parametrize("listed", [[], ["--trainer.callbacks", "EpochLines"]])
def test_every_fit_of_the_command_line_logs_its_epochs_once(listed: list[str], tmp_path: Path) -> None:
    run = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2"]
    shown = run_here("fit", "--config", "target.yaml", *run, *SMALL_DATA, *SMALL_MODEL, *listed)
    assert [match[1] for match in re.finditer(LINE, shown)] == ["1", "2"]
    assert shown.count("Epoch ") <= 1  # the bar, when it is closed


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (90000, "25 h 0 min")]
)
def test_durations_are_in_units_that_fit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
