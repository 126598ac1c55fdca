"""Errors of constructors are the line that was raised."""

from pathlib import Path

import pytest

from atspeed.cli.main import main
from tests.cli.running import run_here

CALLBACK = "{class_path: SpeedupMonitor, init_args: {num_batches: 0}}"
CASES = [
    ("predict", "recommend", "--model.num_beams", "0", "model.num_beams is 0; expected 1 or more"),
    ("predict", "recommend", "--model.drafter.batch_size", "0", "batch_size is 0; expected 1 or more"),
    ("predict", "recommend", "--data.batch_size", "0", "data.batch_size is 0; expected 1 or more"),
    ("predict", "recommend", "--data.source.num_users", "0", "data.source.num_users is 0; expected 1 or more"),
    (
        "predict",
        "recommend",
        "--trainer.callbacks",
        "{class_path: SpeedupMonitor, init_args: {num_batches: 0}}",
        "num_batches is 0",
    ),
    ("fit", "strict", "--model.loss.num_beams", "0", "num_beams is 0; expected 1 or more"),
    ("fit", "strict", "--model.alpha", "7", "model.alpha is 7.0; expected 0 to 1"),
    ("fit", "strict", "--trainer.max_epochs", "-5", "`max_epochs` must be a non-negative integer or -1"),
    ("cache-target", "strict", "--model.alpha", "7", "model.alpha is 7.0; expected 0 to 1"),
    ("benchmark", "benchmark", "--num_requests", "0", "num_requests is 0; expected 1 or more"),
    ("benchmark", "benchmark", "--methods.trie.drafter.max_nodes", "0", "max_nodes is 0; expected 1 or more"),
    ("benchmark-alignment", "benchmark-alignment", "--num_requests", "0", "num_requests is 0; expected 2 or more"),
    ("tune", "tune", "--num_requests", "0", "num_requests is 0; expected"),
]


@pytest.mark.parametrize(("command", "config", "option", "value", "message"), CASES)
def test_an_error_of_a_constructor_is_one_line(
    command: str, config: str, option: str, value: str, message: str
) -> None:
    shown = run_here(command, "--config", f"{config}.yaml", option, value, code=2).splitlines()
    assert shown[1].startswith("error: ")
    assert message in shown[1]
    assert shown[2:] == ["(ATSPEED_TRACEBACK=1 shows where it was raised)"]


def test_an_error_of_a_setting_in_a_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "overlay.yaml").write_text("model: {init_args: {num_beams: 0}}\n")
    shown = run_here("predict", "-c", "recommend.yaml", "-c", str(tmp_path / "overlay.yaml"), code=2)
    assert "error: model.num_beams is 0; expected 1 or more\n" in shown
    assert "Namespace" not in shown
    assert len(shown.splitlines()) == 3


def test_the_traceback_of_a_constructor_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATSPEED_TRACEBACK", "1")
    with pytest.raises(ValueError, match="num_users is 0"):
        main(["predict", "--config", "recommend.yaml", "--data.source.num_users", "0"])
