"""Every job of scripts/gpu/training.sh on a CPU, with tiny shapes; only a GPU has memory of its own to measure."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from atspeed.cli.shipped_configs import CONFIGS
from atspeed.models.growth import grown_config
from scripts.gpu.training import LLAMA_7B, LLAMA_68M, parameters_of
from scripts.memory import LLAMA_7B as COMPUTED_7B
from scripts.memory import LLAMA_68M as COMPUTED_68M
from scripts.memory import jobs

ROOT = Path(__file__).parents[3]


@pytest.mark.nightly
def test_every_job_runs_and_has_its_row(tmp_path: Path) -> None:
    command = ["bash", "scripts/gpu/training.sh", str(tmp_path / "out"), str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "out" / "training.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [None] * 13, done.stderr[-3000:]
    assert len({(row["job"], row["strategy"]) for row in rows}) == 13


@pytest.mark.parametrize(
    ("stage", "shape", "computed"), [("target", LLAMA_7B, COMPUTED_7B), ("draft", LLAMA_68M, COMPUTED_68M)]
)
def test_the_small_models_grow_to_the_shapes_of_docs_memory(stage: str, shape: dict, computed: object) -> None:
    settings = yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text())["model"]["init_args"]["network"]["init_args"]
    small = LlamaConfig(**settings["config"])
    grown = grown_config(small, shape, small.hidden_size // small.num_attention_heads)
    assert all(getattr(grown, name) == getattr(computed, name) for name in shape)


@pytest.mark.nightly
def test_the_parameters_of_a_job_are_those_of_docs_memory(tmp_path: Path) -> None:
    for stage, config in (("target", COMPUTED_7B), ("draft", COMPUTED_68M)):
        config.save_pretrained(tmp_path / stage / "model")
    for job, parameters in jobs().items():
        assert parameters_of(job, tmp_path / "target" / "model") == parameters
