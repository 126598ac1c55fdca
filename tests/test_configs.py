"""Every config parses and instantiates for the command it is for, and the README's commands name files that exist."""

import re
from pathlib import Path

import pytest
import yaml
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from atspeed.benchmark import Benchmark
from atspeed.cli import PARSER_SETTINGS, AtSpeedCLI
from atspeed.data import RecommendationData
from atspeed.decoding import LosslessSampling
from atspeed.models import Checkpoint, LoRA
from atspeed.models.memory import LIVE_PARAMETERS
from atspeed.quickstart import configs_folder

CONFIGS = configs_folder()
ROOT = CONFIGS.parent


class ParseOnly(AtSpeedCLI):
    """Instantiates everything but runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("fit", "target"),
        ("fit", "draft"),
        ("fit", "strict"),
        ("validate", "strict"),
        ("test", "recommend"),
        ("predict", "recommend"),
    ],
)
def test_configs_instantiate(command: str, name: str, tmp_path: Path) -> None:
    settings = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    cli = ParseOnly([command, "--config", str(CONFIGS / f"{name}.yaml"), *settings])
    assert cli.model.stage == name
    assert Path(cli.trainer.log_dir) == tmp_path / name
    assert isinstance(cli.datamodule, RecommendationData)


@pytest.mark.parametrize("base", ["target", "draft", "strict"])
@pytest.mark.parametrize(
    ("overlay", "strategy", "zero"),
    [
        ("ddp", DDPStrategy, None),
        ("deepspeed-zero2", DeepSpeedStrategy, {"stage": 2}),
        ("deepspeed-zero3", DeepSpeedStrategy, {"stage": 3, "stage3_max_live_parameters": LIVE_PARAMETERS}),
        (
            "deepspeed-zero3-offload",
            DeepSpeedStrategy,
            {
                "stage": 3,
                "stage3_max_live_parameters": LIVE_PARAMETERS,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "offload_param": {"device": "cpu", "pin_memory": True},
            },
        ),
    ],
)
def test_hardware_overlays_instantiate_on_every_fit(
    overlay: str, strategy: type, zero: dict | None, base: str, tmp_path: Path
) -> None:
    files = [part for name in (base, overlay) for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    settings = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]  # they say gpu
    cli = ParseOnly(["fit", *files, *settings])
    assert cli.model.stage == base
    assert type(cli.trainer.strategy) is strategy
    assert cli.trainer.precision == "bf16-mixed"
    if zero is not None:
        config = cli.trainer.strategy.config
        assert zero.items() <= config["zero_optimization"].items()
        assert config["zero_allow_untested_optimizer"]
        assert config.get("zero_force_ds_cpu_optimizer", True) == ("offload_optimizer" not in zero)
        DeepSpeedZeroConfig(**config["zero_optimization"])  # refuses keys that it does not know


def test_the_lora_overlay_wraps_a_pre_trained_model(tmp_path: Path) -> None:
    files = [part for name in ("target", "lora") for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    settings = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    network = ParseOnly(["fit", *files, *settings, "--model.network.base.path", "there"]).model.network
    assert isinstance(network, LoRA)
    assert (network.rank, network.base_dtype, network.target_modules) == (16, "bfloat16", "all-linear")
    assert isinstance(network.base, Checkpoint)
    assert network.base.path == Path("there")
    assert network.base.new_vocabulary


def test_the_benchmark_config_instantiates() -> None:
    parser = ArgumentParser(**PARSER_SETTINGS)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Benchmark, "benchmark")
    content = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text())
    content.pop("data")
    objects = parser.instantiate_classes(parser.parse_object({"benchmark": content}))
    assert list(objects.benchmark.methods)[:3] == ["plain", "trie", "trie_auto"]
    assert isinstance(objects.benchmark.methods["draft_lossless"].verifier, LosslessSampling)


def test_all_configs_are_tried() -> None:
    tried = {"target", "draft", "strict", "recommend", "benchmark", "benchmark-alignment"}
    overlays = {"ddp", "deepspeed-zero2", "deepspeed-zero3", "deepspeed-zero3-offload", "lora"}
    assert {file.stem for file in CONFIGS.iterdir()} == tried | overlays


def test_classes_chosen_on_the_command_line_take_their_settings(tmp_path: Path) -> None:
    settings = [
        "--trainer.default_root_dir",
        str(tmp_path),
        "--data.source",
        "AtSpeedLayout",
        "--data.source.root",
        "x",
    ]
    cli = ParseOnly(["fit", "--config", str(CONFIGS / "target.yaml"), *settings])
    assert cli.datamodule.source.root == Path("x")


def test_the_readme_names_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?<![\w/])((?:configs|docs|tests|callbacks|atspeed)/[\w./-]*\w)", text))
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
