"""Predictions: order, counts and scores, in one process or two, killed or not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from atspeed.callbacks import PredictionWriter
from atspeed.callbacks.prediction_parts import PredictionParts
from atspeed.catalog import CompactVocabulary
from atspeed.cli.shipped_configs import CONFIGS
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import LosslessSampling, StrictTopK, TrieDrafter
from atspeed.models import Exported, NewModel, export, model_folder
from atspeed.modules import Inference
from tests.modules.tiny import TINY, make_trainer
from tests.test_configs import ParseOnly

NUM_USERS = 300
SOURCE = {"num_users": NUM_USERS, "num_items": 140}
MAX_NODES = 256


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with an untrained target."""
    vocabulary = CompactVocabulary(EmbeddedCatalog(**SOURCE).load().catalog.words)
    export(NewModel("llama", TINY).build(vocabulary, tmp_path), vocabulary, model_folder(tmp_path, "target"))
    return tmp_path


def predict(
    run_dir: Path,
    *,
    histories: Path | None = None,
    file_format: str = "jsonl",
    limit_predict_batches: int | None = None,
    callback: pl.Callback | None = None,
    **settings: Any,
) -> list[dict]:
    """Predict in this process, and return the records."""
    arguments = {"verifier": StrictTopK(), "num_beams": 5, "metrics_at": [5], **settings}
    module = Inference("recommend", Exported("target"), TrieDrafter(MAX_NODES), **arguments)
    data = RecommendationData(EmbeddedCatalog(**SOURCE), batch_size=4, histories=histories)
    writer = PredictionWriter(file_format)  # type: ignore[arg-type]
    callbacks = [callback, writer] if callback else [writer]
    trainer = make_trainer(run_dir, callbacks=callbacks, limit_predict_batches=limit_predict_batches)
    trainer.predict(module, data, return_predictions=False)
    return predictions(run_dir) if limit_predict_batches is None and file_format == "jsonl" else []


def predictions(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "recommend" / "predictions.jsonl").read_text().splitlines()]


def parts_of(run_dir: Path) -> PredictionParts:
    return PredictionParts(run_dir / "recommend" / "predictions.parts")


def command(run_dir: Path, processes: int) -> list[str]:
    settings = {
        "config": CONFIGS / "recommend.yaml",
        "trainer.default_root_dir": run_dir,
        "trainer.accelerator": "cpu",
        "trainer.devices": processes,
        "trainer.strategy": "ddp" if processes > 1 else "auto",
        "model.drafter": "TrieDrafter",
        "model.drafter.max_nodes": MAX_NODES,
        "data.source": "EmbeddedCatalog",
        **{f"data.source.{name}": value for name, value in SOURCE.items()},
        "data.batch_size": 4,
        "model.num_beams": 5,
        "model.metrics_at": "[5]",
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "atspeed", "predict", *words]


def kill_half_way(run_dir: Path, processes: int) -> None:
    """Start a prediction and kill all its processes after a quarter of the requests."""
    with subprocess.Popen(command(run_dir, processes), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        parts = parts_of(run_dir)
        deadline = time.monotonic() + 600
        while len(parts.answered()) < NUM_USERS // 4 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert NUM_USERS // 4 <= len(parts.answered()) < NUM_USERS
    assert not list((run_dir / "recommend").glob("predictions.jsonl*")), "there is no half file"


def assert_same(found: list[dict], expected: list[dict]) -> None:
    assert [record["user"] for record in found] == [record["user"] for record in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["target_calls"] == theirs["target_calls"]
        for name in ("items", "sid"):
            assert [answer[name] for answer in ours["recommended"]] == [a[name] for a in theirs["recommended"]]
        scores = [[answer["score"] for answer in record["recommended"]] for record in (ours, theirs)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.distributed
@pytest.mark.slow
def test_two_killed_processes_go_on_and_give_what_one_gives(run_dir: Path) -> None:
    expected = predict(run_dir)
    assert [record["user"] for record in expected] == [f"user-{number}" for number in range(NUM_USERS)]
    (run_dir / "recommend" / "predictions.jsonl").unlink()
    kill_half_way(run_dir, processes=2)
    parts = sorted(parts_of(run_dir).folder.glob("part-*.jsonl"))
    assert [part.name for part in parts] == ["part-0.jsonl", "part-1.jsonl"], "both processes had their share"
    parts_of(run_dir).prepare(json.loads((parts_of(run_dir).folder / "settings.json").read_text()))
    rows = [row for part in parts for line in part.read_text().splitlines() for row in json.loads(line)[0]]
    assert len(set(rows)) == len(rows), "no request was answered by both"
    done = subprocess.run(command(run_dir, processes=2), timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "requests are answered already" in done.stderr
    assert_same(predictions(run_dir), expected)
    assert not parts_of(run_dir).folder.exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_after_its_last_whole_batch(run_dir: Path) -> None:
    expected = predict(run_dir)
    (run_dir / "recommend" / "predictions.jsonl").unlink()
    kill_half_way(run_dir, processes=1)
    part = parts_of(run_dir).folder / "part-0.jsonl"
    answered = len(parts_of(run_dir).answered())
    with part.open("a") as file:
        file.write('[[296, 297], [{"user": "user-')  # as if killed in the middle of a batch
    predict(run_dir, limit_predict_batches=1)
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    rows = [row for rows, _ in lines for row in rows]
    assert rows == list(range(answered + 4)), "one more batch, none twice"
    assert_same(predict(run_dir), expected)
    assert not parts_of(run_dir).folder.exists()


class Terminate(pl.Callback):
    """A SIGTERM in the third batch, as a scheduler sends it."""

    def on_predict_batch_start(self, trainer: pl.Trainer, module: object, batch: object, batch_idx: int) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_terminated_run_ends_with_its_batch(run_dir: Path) -> None:
    with pytest.raises(SIGTERMException):
        predict(run_dir, callback=Terminate())
    assert parts_of(run_dir).answered() == set(range(3 * 4))


def test_a_part_whose_end_was_cut_off_anywhere_loses_that_batch_only(tmp_path: Path) -> None:
    parts = PredictionParts(tmp_path / "parts")
    parts.prepare({"seed": "0"})
    parts.append(0, [2, 3], [{"user": "ü"}, {"user": "d"}])
    parts.append(1, [0, 1], [{"user": "a"}, {"user": "b"}])
    part = parts.folder / "part-0.jsonl"
    whole = part.read_bytes()
    parts.append(0, [4], [{"user": "e"}])
    both = part.read_bytes()
    for end in range(len(whole), len(both)):
        part.write_bytes(both[:end])
        assert parts.answered() == {0, 1, 2, 3}
        parts.prepare({"seed": "0"})
        assert part.read_bytes() == whole
    assert [record["user"] for record in parts.records()] == ["a", "b", "ü", "d"]


def test_other_settings_do_not_go_on_with_a_run(run_dir: Path) -> None:
    predict(run_dir, limit_predict_batches=2)
    assert not (run_dir / "recommend" / "predictions.jsonl").exists()
    with pytest.raises(ValueError, match=r"other settings: model.exclude_seen was False and is True\. Repeat that run"):
        predict(run_dir, exclude_seen=True)
    catalog = EmbeddedCatalog(**SOURCE).load().catalog
    file = run_dir / "histories.jsonl"
    file.write_text(json.dumps({"user": "new", "history": [catalog.names[3]]}))
    with pytest.raises(ValueError, match="other settings: data was "):
        predict(run_dir, histories=file)
    export(
        NewModel("llama", TINY, 1).build(CompactVocabulary(catalog.words), run_dir),
        CompactVocabulary(catalog.words),
        run_dir / "target/model",
    )
    with pytest.raises(ValueError, match=r"other settings: model\.target was "):
        predict(run_dir)
    assert len(parts_of(run_dir).answered()) == 8, "nothing was lost"


def test_sampled_answers_do_not_depend_on_where_a_run_stopped(run_dir: Path) -> None:
    whole = predict(run_dir, verifier=LosslessSampling(), seed=3)
    predict(run_dir, verifier=LosslessSampling(), seed=3, limit_predict_batches=30)
    assert_same(predict(run_dir, verifier=LosslessSampling(), seed=3), whole)
    other = predict(run_dir, verifier=LosslessSampling(), seed=4)
    assert [record["recommended"] for record in other] != [record["recommended"] for record in whole]


def test_parquet_has_what_json_lines_have(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atspeed.callbacks.prediction_writer.ROW_GROUP", 128)
    expected = predict(run_dir)
    predict(run_dir, file_format="parquet")
    table = pq.read_table(run_dir / "recommend" / "predictions.parquet")
    assert table.to_pylist() == expected


def test_the_format_is_chosen_on_the_command_line(tmp_path: Path) -> None:
    settings = ["--trainer.default_root_dir", str(tmp_path), "--trainer.callbacks.format", "parquet"]
    cli = ParseOnly(["predict", "--config", str(CONFIGS / "recommend.yaml"), *settings])
    (writer,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, PredictionWriter))
    assert writer.format == "parquet"


def test_histories_of_a_file_are_answered_in_its_order(run_dir: Path) -> None:
    known = predict(run_dir)
    data = RecommendationData(EmbeddedCatalog(**SOURCE))
    data.setup()
    names = data.catalog.names
    histories = [[names[item] for item in data.predict_histories.items[user]] for user in (7, 3, 7)]
    lines = [{"user": user, "history": history} for user, history in zip(("z", 5, "z"), histories, strict=True)]
    file = run_dir / "histories.jsonl"
    file.write_text("\n\n".join(json.dumps(line) for line in [*lines, {"user": "nobody", "history": []}]))
    found = predict(run_dir, histories=file)
    assert [record["user"] for record in found] == ["z", "5", "z", "nobody"]
    assert_same(found[:3], [{**known[user], "user": name} for user, name in ((7, "z"), (3, "5"), (7, "z"))])
    assert len(found[3]["recommended"]) == 5
    unseen = predict(run_dir, histories=file, exclude_seen=True, num_beams=40)
    for record, history in zip(unseen, histories, strict=False):
        assert not set(history) & {item for answer in record["recommended"] for item in answer["items"]}
