"""The configs that come with the package are found by name, in every command and every folder."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from atspeed.cli.shipped_configs import CONFIGS, find_config
from tests.cli.running import run_here

FILES = sorted(CONFIGS.rglob("*.yaml"))


def test_names_are_unique() -> None:
    assert len(FILES) > 10
    assert not [stem for stem, count in Counter(file.stem for file in FILES).items() if count > 1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_name_stands_for_the_config_of_the_package(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(file.name) == str(file)


def test_a_file_of_the_working_directory_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strict.yaml").write_text("seed_everything: 7\n")
    assert find_config("strict.yaml") == "strict.yaml"
    shown = run_here("validate", "--config", "strict.yaml", "--print_config")
    assert "seed_everything: 7\n" in shown
    assert shown.count(f"config strict.yaml: {tmp_path / 'strict.yaml'}\n") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("configs/ddp.yaml", "atspeed has configs/hardware/ddp.yaml, which --config ddp.yaml finds from any folder"),
        ("configs/strict.yaml", "atspeed has configs/strict.yaml, which --config strict.yaml finds"),
        ("strikt.yaml", "there is no config 'strikt.yaml'; did you mean 'strict.yaml'?"),
        ("hardwear/dpd.yml", "there is no config 'hardwear/dpd.yml'; did you mean 'ddp.yaml'?"),
        ("nothing-like-it.yaml", "there is no config 'nothing-like-it.yaml'\n"),
    ],
)
@pytest.mark.parametrize("option", ["--config", "-c", "--config="])
def test_a_missing_config_is_a_usage_error_that_names_the_right_one(
    option: str, value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run_here("fit", *([option + value] if option.endswith("=") else [option, value]), code=2)
    assert message in shown
    assert len(shown.splitlines()) == 2


@pytest.mark.parametrize("text", ["{model: 1}", "a: b", "-", "https://host/strict.yaml"])
def test_what_is_no_name_of_a_file_is_left_alone(text: str) -> None:
    assert find_config(text) == text


@pytest.mark.parametrize(
    "arguments",
    [
        ["fit", "--config", "strict.yaml"],
        ["fit", "-c", "strict.yaml"],
        ["fit", "--config=strict.yaml"],
        ["validate", "--config", "strict.yaml"],
        ["test", "--config", "recommend.yaml"],
        ["predict", "--config", "recommend.yaml"],
        ["cache-target", "--config", "strict.yaml"],
        ["benchmark", "--config", "benchmark.yaml"],
        ["benchmark", "-c", "benchmark.yaml"],
        ["benchmark-alignment", "--config=benchmark-alignment.yaml"],
        ["tune", "--config", "tune.yaml"],
    ],
    ids=" ".join,
)
def test_every_command_finds_its_config_by_name(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run_here(*arguments, "--print_config")
    name = arguments[-1].removeprefix("--config=")
    line, _, config = shown.partition("\n")
    assert line == f"config {name}: {CONFIGS / name}"
    assert yaml.safe_load(config)["data"]["source"]["class_path"] == "atspeed.data.EmbeddedCatalog"


def test_overlays_are_found_in_their_subfolders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run_here("fit", "-c", "strict.yaml", "-c", "best.yaml", "--config=ddp.yaml", "--print_config")
    assert f"config ddp.yaml: {CONFIGS / 'hardware' / 'ddp.yaml'}\n" in shown
    for words in ("class_path: atspeed.losses.ScoreRegression", "DDPStrategy"):
        assert words in shown


def test_a_config_for_all_commands_stands_before_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.yaml").write_text("fit: {seed_everything: 7}\n")
    shown = run_here("-c", "all.yaml", "fit", "--config", "strict.yaml", "--seed_everything=8", "--print_config")
    assert "seed_everything: 8\n" in shown
    assert "class_path: atspeed.losses.AtSpeedS" in shown
    assert "seed_everything: 7\n" in run_here("-c", "all.yaml", "fit", "--model", "FineTuning", "--print_config")
