"""Every config parses and instantiates for the command it is for, and the README's commands name files that exist."""

import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from atspeed.benchmark import Benchmark
from atspeed.cli import PARSER_SETTINGS, AtSpeedCLI
from atspeed.data import RecommendationData
from atspeed.decoding import LosslessSampling
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
    assert {file.stem for file in CONFIGS.iterdir()} == {"target", "draft", "strict", "recommend", "benchmark"}


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
