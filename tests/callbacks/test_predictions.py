"""Predictions: order, counts and scores, in one process or two, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from atspeed.cli import AtSpeedCLI
from atspeed.data import EmbeddedCatalog
from atspeed.models import NewModel, export, model_folder
from callbacks.prediction_parts import PredictionParts
from tests.modules.tiny import TINY

NUM_USERS = 300
DATA = {"num_users": NUM_USERS, "num_items": 140}
CONFIG = Path(__file__).parents[2] / "configs" / "recommend.yaml"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with an untrained target."""
    vocabulary = EmbeddedCatalog(**DATA).load().catalog.vocabulary
    export(NewModel("llama", TINY).build(vocabulary, tmp_path), vocabulary, model_folder(tmp_path, "target"))
    return tmp_path


def arguments(run_dir: Path, *more: str) -> list[str]:
    settings = {
        "trainer.default_root_dir": run_dir,
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "data.source": "EmbeddedCatalog",
        **{f"data.source.{name}": value for name, value in DATA.items()},
        "data.batch_size": 4,
        "model.num_beams": 5,
        "model.metrics_at": "[5]",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["predict", "--config", str(CONFIG), *words, *more]


def predict(run_dir: Path, *more: str) -> list[dict[str, Any]]:
    AtSpeedCLI(arguments(run_dir, *more))
    return predictions(run_dir)


def predictions(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "recommend" / "predictions.jsonl").read_text().splitlines()]


def kill_half_way(run_dir: Path, *more: str) -> int:
    """Start a prediction, kill all its processes, and return how many requests it had answered."""
    command = [sys.executable, "-m", "atspeed", *arguments(run_dir, *more)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    parts = PredictionParts(run_dir / "recommend" / "predictions.parts")
    deadline = time.monotonic() + 120
    while len(parts.answered()) < NUM_USERS // 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return len(parts.answered())


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["user"] == theirs["user"]
        assert ours["target_calls"] == theirs["target_calls"]
        for name in ("items", "sid"):
            assert [answer[name] for answer in ours["recommended"]] == [a[name] for a in theirs["recommended"]]
        scores = [[answer["score"] for answer in record["recommended"]] for record in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_and_a_killed_run_give_what_one_process_gives(run_dir: Path) -> None:
    expected = predict(run_dir)
    assert [record["user"] for record in expected] == [f"user-{number}" for number in range(NUM_USERS)]
    file = run_dir / "recommend" / "predictions.jsonl"
    file.unlink()
    two = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    answered = kill_half_way(run_dir, *two)
    assert NUM_USERS // 4 <= answered < NUM_USERS
    parts = run_dir / "recommend" / "predictions.parts"
    assert len(list(parts.glob("part-*.jsonl"))) == 2
    assert not file.exists(), "no half file"
    before = {part: part.read_bytes() for part in parts.glob("part-*.jsonl")}
    with (parts / "part-0.jsonl").open("a") as part:
        part.write('[[7, 8], [{"user": "user-')  # as if killed in the middle of a line
    subprocess.run([sys.executable, "-m", "atspeed", *arguments(run_dir, *two)], check=True, timeout=120)
    assert not parts.exists()
    assert_same(predictions(run_dir), expected)
    assert before


def test_a_run_goes_on_where_it_stopped(
    run_dir: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ...
