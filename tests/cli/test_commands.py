"""The commands, end to end on small data."""

import io
import json
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from atspeed.cli.quickstart import SETTINGS
from tests.cli.running import ROOT, SMALL_DATA, SMALL_MODEL, run_here

COLUMNS = {
    "method",
    "drafter",
    "draft_beams",
    "verification",
    "temperature",
    "epsilon",
    "num_beams",
    "batch_size",
    "requests",
    "execution",
    "latency_ms",
    "device_ms",
    "kernel_ms",
    "capture_seconds",
    "peak_memory_gb",
    "target_tokens",
    "draft_tokens",
    "floor",
    "requests_per_second",
    "speedup_vs_hf",
    "speedup_vs_plain",
    "total_speedup_vs_hf",
    "target_calls",
    "draft_calls",
    "trie_target_calls",
    "accepted_levels",
    "acceptance_rate",
    "acceptance_by_level",
    "identical_to_hf",
    "near_ties",
    "rounding_noise",
    "max_score_gap",
    "overlap_with_hf",
    "overlap_with_plain",
    "exact_share",
    "illegal_rate",
    "duplicate_rate",
    "recall",
    "recall_error",
    "recall_difference",
    "recall_difference_interval",
    "ndcg",
    "ndcg_error",
    "ndcg_difference",
    "ndcg_difference_interval",
    "phases_ms",
}


def fit_arguments(stage: str, run_dir: Path, *more: str) -> list[str]:
    run = ["--trainer.default_root_dir", str(run_dir), "--trainer.accelerator", "cpu"]
    return ["fit", "--config", f"{stage}.yaml", *run, *SMALL_DATA, *more]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with all three models, trained by the command line."""
    folder = tmp_path_factory.mktemp("run")
    for stage in ("target", "draft"):
        # after 2 epochs a request's 20th and 21st beams are 1e-6 apart, less than float32 can tell; after 3, 2e-3
        run_here(*fit_arguments(stage, folder, "--trainer.max_epochs", "3", *SMALL_MODEL))
    run_here(*fit_arguments("strict", folder))
    return folder


@pytest.mark.e2e
@pytest.mark.slow
def test_stages_export_models_and_record_themselves(run_dir: Path) -> None:
    for stage in ("target", "draft", "strict"):
        AutoModelForCausalLM.from_pretrained(run_dir / stage / "model")
        record = json.loads((run_dir / stage / "run.json").read_text())
        assert record["command"][1] == "fit"
        assert record["versions"]["torch"]
        assert "num_users: 40" in (run_dir / stage / "config.yaml").read_text()
        assert list((run_dir / stage).glob("events.out.tfevents.*"))
        assert (run_dir / stage / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.e2e
@pytest.mark.slow
def test_an_alignment_logs_speculation_and_the_parts_of_its_loss_by_default(run_dir: Path) -> None:
    events = EventAccumulator(str(run_dir / "strict"))
    events.Reload()
    for name in ("target_calls", "acceptance_rate", "acceptance_rate_level_0", "accepted_levels", "overlap"):
        assert events.Scalars(f"val/{name}")[0].step == 0
        assert len(events.Scalars(f"val/{name}")) > 1
    for name in ("rec_loss", "align_loss", "align_loss/ReverseKL", "align_loss/DensityRegularization"):
        assert events.Scalars(f"val/{name}")


@pytest.mark.e2e
@pytest.mark.slow
def test_test_prints_recall_beside_the_baselines(run_dir: Path) -> None:
    settings = ["--config", "recommend.yaml", "--trainer.default_root_dir", str(run_dir)]
    output = run_here("test", *settings, *SMALL_DATA)
    names = "recall@20", "ndcg@20", "popularity_recall@20", "transitions_recall@20", "target_calls", "speedup"
    for name in names:
        assert f"test/{name}" in output
    run_here("predict", *settings, *SMALL_DATA)
    assert len((run_dir / "recommend" / "predictions.jsonl").read_text().splitlines()) == 40
    for command in ("test", "predict"):
        record = json.loads((run_dir / "recommend" / f"{command}-run.json").read_text())
        assert record["command"][1] == command
        assert "num_users: 40" in (run_dir / "recommend" / f"{command}-config.yaml").read_text()


@pytest.mark.e2e
@pytest.mark.slow
def test_benchmark_writes_the_schema_and_strict_rows_are_identical(run_dir: Path) -> None:
    settings = ["--config", "benchmark.yaml", "--out", str(run_dir), "--num_requests", "8", "--num_threads", "1"]
    output = run_here("benchmark", *settings, *SMALL_DATA)
    assert "hf_generate" in output
    result = json.loads((run_dir / "benchmark" / "benchmark.json").read_text())
    parts = {"environment", "setting", "rows", "curves", "coverage", "predictions", "copy_gb_per_second"}
    assert set(result) == parts
    assert {"versions", "device", "threads", "dtype", "commit"} <= set(result["environment"])
    methods = ["hf_generate", "plain", "trie", "trie_auto", "hybrid", "draft", "price_aware"]
    lossy = ["price_aware_bounded", "draft_relaxed", "draft_lossless", "trie_lossless"]
    assert [row["method"] for row in result["rows"]] == [*methods, *lossy] * 4
    for row in result["rows"]:
        assert set(row) == COLUMNS
        assert row["requests"] == 8
        assert row["illegal_rate"] == row["duplicate_rate"] == 0
        if row["method"] in lossy:
            assert row["verification"] == row["method"].rsplit("_", 1)[1]
            assert row["identical_to_hf"] is None
        else:
            assert row["verification"] == (None if row["method"] == "hf_generate" else "strict")
            assert row["identical_to_hf"] == 1
            assert row["max_score_gap"] < 1e-4
            assert row["overlap_with_hf"] == row["overlap_with_plain"] == 1
            assert row["near_ties"] is None
        if row["method"] in ("hf_generate", "plain"):
            assert row["target_calls"] == {"hf_generate": None, "plain": 4}[row["method"]]
        else:
            assert 1 <= row["target_calls"] <= 4
        by_draft = row["method"].startswith(("hybrid", "draft", "price_aware"))
        assert (row["trie_target_calls"] is not None) == by_draft
    assert [(row["draft_beams"], row["epsilon"], row["temperature"]) for row in result["curves"]] == [
        *((width, None, None) for width in (20, 40, 80)),
        *((40, epsilon, None) for epsilon in (0.02, 0.05, 0.1, 0.2)),
        *((40, None, temperature) for temperature in (0.25, 0.5, 1.0)),
    ]
    assert {(row["num_beams"], row["batch_size"], row["requests"]) for row in result["curves"]} == {(20, 1, 8)}
    names = ("speedup", "draft_width", "tradeoff", "losses", "phases", "acceptance")
    assert {file.name for file in (run_dir / "benchmark").glob("*.png")} == {f"figure-{name}.png" for name in names}
    assert (run_dir / "benchmark" / "report.html").is_file()
    strict = [(row["method"], row["num_beams"]) for row in result["rows"] if row["verification"] == "strict"]
    assert [(row["method"], row["num_beams"]) for row in result["predictions"]["rows"]] == strict
    assert (run_dir / "cost" / "target.json").is_file()
    assert "RTX A5000, predicted" in output
    assert len(result["coverage"]) == 3 * 4 * 5
    assert all(0 <= row["coverage"] <= 1 for row in result["coverage"])


@pytest.mark.e2e
@pytest.mark.slow
def test_the_benchmark_takes_methods_and_batches_on_the_command_line(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "target").symlink_to(run_dir / "target")
    methods = "{trie: {drafter: {class_path: TrieDrafter, init_args: {max_nodes: 99}}}}"
    settings = ["--config", "benchmark.yaml", "--out", str(tmp_path), "--num_requests", "5", "--num_threads", "1"]
    more = ["--methods", methods, "--batch_sizes", "[1, 4]", "--num_beams", "[3]"]
    run_here("benchmark", *settings, *more, *SMALL_DATA)
    result = json.loads((tmp_path / "benchmark" / "benchmark.json").read_text())
    assert [(row["method"], row["batch_size"]) for row in result["rows"]] == [
        (name, size) for size in (1, 4) for name in ("hf_generate", "plain", "trie")
    ]
    assert {row["requests"] for row in result["rows"]} == {5}
    assert result["curves"] == result["coverage"] == []
    assert not (tmp_path / "benchmark" / "figure-draft_width.png").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_quickstart_makes_what_is_missing(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in ("target", "draft"):
        (tmp_path / stage).symlink_to(run_dir / stage)
    before = (run_dir / "target" / "model" / "model.safetensors").stat().st_mtime
    methods = "{trie: {drafter: TrieDrafter}, draft: {drafter: ModelDrafter}}"
    small = ["--methods", methods, "--num_beams", "[3]", "--num_requests", "2", "--num_threads", "1"]
    monkeypatch.setitem(SETTINGS, "benchmark", [*SETTINGS["benchmark"], *small, "--draft_widths", "[20]"])
    output = run_here("quickstart", "--out", str(tmp_path), *SMALL_DATA)
    assert output.count("skipped") == 2
    assert "strict: done" in output
    assert "benchmark: done" in output
    assert "benchmark.json" in output
    assert (tmp_path / "strict" / "model" / "model.safetensors").is_file()
    assert "alpha: 1.0" in (tmp_path / "strict" / "config.yaml").read_text()
    assert (run_dir / "target" / "model" / "model.safetensors").stat().st_mtime == before


@pytest.mark.e2e
@pytest.mark.slow
def test_the_readmes_bundle_and_python_example_work(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (command,) = re.findall(r"`python -m atspeed (bundle [^`]*)`", readme)
    monkeypatch.chdir(tmp_path)
    run_here(*command.replace("runs/quickstart", str(run_dir)).split(), *SMALL_DATA)
    with redirect_stdout(io.StringIO()) as shown:
        exec(code, {})
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2
    assert all(line.count("[") == 11 for line in lines), "ten semantic IDs for each history"


@pytest.mark.e2e
@pytest.mark.slow
def test_a_killed_fit_resumes_with_ckpt_path_last(tmp_path: Path) -> None:
    arguments = fit_arguments("target", tmp_path, *SMALL_MODEL, "--data.max_tokens", "512", "--trainer.max_epochs")
    process = subprocess.Popen([sys.executable, "-m", "atspeed", *arguments, "1000"], stdout=subprocess.DEVNULL)
    last = tmp_path / "target" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 300
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(0.5)  # the checkpoint is being written
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "target" / "model").exists()
    run_here(*arguments, "1000", "--ckpt_path", "last", "--trainer.max_steps", "160")
    assert (tmp_path / "target" / "model" / "model.safetensors").is_file()
