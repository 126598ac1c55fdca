"""Every config parses and instantiates for the command it is for."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from transformers import AutoConfig

from atspeed.benchmark import AlignmentBenchmark, Benchmark
from atspeed.catalog import ItemCatalog
from atspeed.cli.parser import PARSER_SETTINGS, Parser
from atspeed.cli.shipped_configs import CONFIGS, find_config
from atspeed.cli.trainer_cli import AtSpeedCLI
from atspeed.data import GivenSplit, GlobalTime, LeaveOneOut, RecommendationData, Splitter
from atspeed.decoding import BoundedTopK, Captured, LosslessSampling, RelaxedSampling, StrictTopK
from atspeed.losses import AtSpeedR, AtSpeedS, ScoreRegression
from atspeed.models import Checkpoint, Exported, Grown, LoRA
from atspeed.models.growth import grown_config
from atspeed.prompts import ChatPrompt, TextPrompt
from atspeed.prompts.prompt import IGNORED
from scripts.memory import LIVE_PARAMETERS
from tests.prompts.tiny_tokenizers import byte_level, save

ROOT = Path(__file__).parents[1]


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
        ("fit", "relaxed"),
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


@pytest.mark.parametrize("base", ["target", "draft", "strict", "relaxed"])
@pytest.mark.parametrize(
    ("overlay", "strategy", "zero"),
    [
        ("hardware/ddp", DDPStrategy, None),
        ("hardware/deepspeed-zero2", DeepSpeedStrategy, {"stage": 2}),
        ("hardware/deepspeed-zero3", DeepSpeedStrategy, {"stage": 3, "stage3_max_live_parameters": LIVE_PARAMETERS}),
        (
            "hardware/deepspeed-zero3-offload",
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
    files = [part for name in ("target", "models/lora") for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    settings = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    network = ParseOnly(["fit", *files, *settings, "--model.network.base.path", "there"]).model.network
    assert isinstance(network, LoRA)
    assert (network.rank, network.base_dtype, network.target_modules) == (16, "bfloat16", "all-linear")
    assert isinstance(network.base, Checkpoint)
    assert network.base.path == Path("there")
    assert network.base.new_vocabulary


PROMPTS = {"lcrec": TextPrompt, "minionerec": TextPrompt, "openonerec": ChatPrompt}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_overlays_state_every_setting_and_write_their_format(name: str, tmp_path: Path) -> None:
    prompt = compose("target", f"prompts/{name}").datamodule.prompt
    assert type(prompt) is PROMPTS[name]
    stated = yaml.safe_load((CONFIGS / f"prompts/{name}.yaml").read_text())["data"]["prompt"]["init_args"]
    assert set(stated) == set(inspect.signature(type(prompt)).parameters)
    code = "<s_{}_{}>" if name == "openonerec" else "<{}_{}>"
    sids = {item: [code.format(*each) for each in zip("abc", item, strict=True)] for item in ("123", "420")}
    catalog = ItemCatalog(sids)
    prompt.tokenizer = save(tmp_path, byte_level(), codes=("<|sid_begin|>", "<|sid_end|>", *catalog.words))
    encoder = prompt.encoder(catalog, 20)
    tokens, labels = encoder.encode_labelled([0, 1, 0])
    text, response = (encoder.vocabulary.text(part.tolist()) for part in (tokens, labels[labels != IGNORED]))
    first, second = map("".join, sids.values())
    history = f"The user has interacted with items {first}, {second} in chronological order. Can you predict"
    history, border, expected = {
        "lcrec": (history, "### Response:", f"{first}</s>"),
        "minionerec": (history, "### Response:\n", f"{first}\n</s>"),
        "openonerec": (
            f"\n<|sid_begin|>{first}<|sid_end|><|sid_begin|>{second}<|sid_end|>\n",
            "</think>\n\n",
            f"<|sid_begin|>{first}<|sid_end|>",
        ),
    }[name]
    assert history in text
    assert response == expected
    assert text.endswith(border + expected)
    assert "  " not in text, "a line is folded with its indentation"


def compose(*names: str) -> ParseOnly:
    files = [part for name in names for part in ("--config", str(CONFIGS / f"{name}.yaml"))]
    return ParseOnly(["fit", *files, "--trainer.accelerator", "cpu"])


def test_the_alignments_state_every_setting_of_the_paper_and_of_their_loss() -> None:
    for name, loss in (("strict", AtSpeedS), ("relaxed", AtSpeedR)):
        model = compose(name).model
        assert type(model.loss) is loss
        assert (model.alpha, model.num_beams, model.learning_rate, model.weight_decay) == (0.7, 20, 1e-3, 0.1)
    for names in (["strict"], ["relaxed"], ["strict", "losses/best"]):
        stated = yaml.safe_load((CONFIGS / f"{names[-1]}.yaml").read_text())["model"]["init_args"]["loss"]
        signature = inspect.signature(type(compose(*names).model.loss))
        settings = {
            name for name, setting in signature.parameters.items() if setting.kind is setting.POSITIONAL_OR_KEYWORD
        }
        assert set(stated.get("init_args", {})) == settings


def test_the_best_overlay_keeps_the_rest_of_strict() -> None:
    objects = compose("strict", "losses/best")
    model = objects.model
    assert type(model.loss) is ScoreRegression
    assert (model.stage, model.alpha, model.num_beams, model.weight_decay) == ("strict", 1.0, 40, 0.1)
    assert (objects.datamodule.cuts, objects.datamodule.max_history) == ("every", 20)


@pytest.mark.parametrize(
    ("base", "overlay"),
    [
        ("target", "models/llama-7b"),
        ("draft", "models/llama-68m"),
        ("target", "models/qwen3-8b"),
        ("draft", "models/qwen3-0.6b"),
    ],
)
def test_model_overlays_start_from_a_pre_trained_model(base: str, overlay: str) -> None:
    model = compose(base, overlay, "hardware/deepspeed-zero3").model
    assert model.stage == base
    assert isinstance(model.network, Checkpoint)
    assert model.network.path == Path(overlay)
    assert model.network.new_vocabulary


def test_the_alignment_benchmark_config_instantiates() -> None:
    parser = Parser(**PARSER_SETTINGS)
    parser.add_class_arguments(AlignmentBenchmark, "benchmark")
    content = yaml.safe_load((CONFIGS / "benchmark-alignment.yaml").read_text())
    content.pop("data")
    benchmark = parser.instantiate(parser.parse_object({"benchmark": content})).benchmark
    assert list(benchmark.drafts) == ["fine-tuned", "AtSpeedS", "AtSpeedR"]
    assert type(benchmark.methods["hybrid_relaxed"].verifier) is RelaxedSampling


def test_the_benchmark_config_instantiates() -> None:
    parser = Parser(**PARSER_SETTINGS)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Benchmark, "benchmark")
    content = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text())
    content.pop("data")
    objects = parser.instantiate(parser.parse_object({"benchmark": content}))
    assert list(objects.benchmark.methods)[:3] == ["plain", "trie", "trie_auto"]
    assert type(objects.benchmark.methods["draft_lossless"].verifier) is LosslessSampling


@pytest.mark.parametrize("name", ["benchmark-large", "benchmark-7b"])
def test_the_benchmarks_of_real_size_grow_both_models_and_check_their_shapes(name: str) -> None:
    parser = Parser(**PARSER_SETTINGS)
    parser.add_class_arguments(Benchmark, "benchmark")
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    content.pop("data")
    benchmark = parser.instantiate(parser.parse_object({"benchmark": content})).benchmark
    assert {"plain", "trie", "draft", "price_aware"} <= {*benchmark.methods}
    captured = {name for name, method in benchmark.methods.items() if isinstance(method.execution, Captured)}
    assert captured == (benchmark.methods.keys() - {"plain_eager"} if name == "benchmark-7b" else set())
    assert {type(method.verifier) for method in benchmark.methods.values()} == {
        StrictTopK,
        BoundedTopK,
        RelaxedSampling,
    }
    assert not benchmark.curves
    assert benchmark.num_requests >= 30
    for source, stage, head_size in ((benchmark.target_source, "target", 128), (benchmark.draft_source, "draft", 64)):
        assert source.dtype == "bfloat16"
        network = yaml.safe_load((CONFIGS / f"{stage}.yaml").read_text())["model"]["init_args"]["network"]["init_args"]
        small = AutoConfig.for_model(network["model_type"], **network["config"], vocab_size=100)
        assert grown_config(small, source.shape, head_size).num_hidden_layers == source.shape["num_hidden_layers"]


def test_the_documented_grown_target_instantiates() -> None:
    text = (ROOT / "docs" / "usage.md").read_text().replace("\\\n", " ")
    options = re.findall(r"--(target\S*) (\S+)", next(line for line in text.splitlines() if "--target Grown" in line))
    parser = Parser(**PARSER_SETTINGS)
    parser.add_class_arguments(Benchmark, None)
    arguments = [word for name, value in options for word in (f"--{name}", value)]
    target = parser.instantiate(parser.parse_args([*arguments, "--methods", "{}"])).target
    assert isinstance(target, Grown)
    assert isinstance(target.base, Exported)
    assert all(target.shape.values())
    assert target.dtype == "bfloat16"


def test_all_configs_are_tried() -> None:
    tried = {"target", "draft", "strict", "relaxed", "recommend", "tune"}
    tried |= {"benchmark", "benchmark-alignment", "benchmark-large", "benchmark-7b"}
    overlays = {f"prompts/{name}" for name in PROMPTS} | {
        "losses/best",
        "models/llama-7b",
        "models/llama-68m",
        "models/qwen3-8b",
        "models/qwen3-0.6b",
        "hardware/ddp",
        "hardware/deepspeed-zero2",
        "hardware/deepspeed-zero3",
        "hardware/deepspeed-zero3-offload",
        "models/lora",
    }
    assert {str(file.relative_to(CONFIGS).with_suffix("")) for file in CONFIGS.rglob("*.yaml")} == tried | overlays


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


@pytest.mark.parametrize(
    ("source", "split", "expected"),
    [
        ("Interactions", [], None),
        ("Interactions", ["", "LeaveOneOut", ".min_train", "3"], LeaveOneOut(3)),
        ("RecBoleLayout", ["", "GlobalTime", ".ratio", "[7, 1, 2]"], GlobalTime(ratio=(7, 1, 2))),
        ("AmazonReviews", ["", "GivenSplit", ".column", "fold"], GivenSplit("fold")),
    ],
)
def test_a_split_is_chosen_on_the_command_line(
    source: str, split: list[str], expected: Splitter | None, tmp_path: Path
) -> None:
    options = {
        "": source,
        ".path": "x",
        **dict(zip((f".split{name}" for name in split[::2]), split[1::2], strict=True)),
    }
    settings = [word for name, value in options.items() for word in (f"--data.source{name}", value)]
    arguments = ["fit", "--config", str(CONFIGS / "target.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    cli = ParseOnly([*arguments, *settings])
    found = cli.datamodule.source
    assert type(found).__name__ == source
    assert found.path == Path("x")
    assert type(found.split) is type(expected)
    assert expected is None or vars(found.split) == vars(expected)


@pytest.mark.parametrize(
    "example", re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "callbacks.md").read_text(), flags=re.DOTALL)
)
def test_the_examples_of_callbacks_instantiate(example: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(example)
    settings = ["--config", str(overlay), "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    cli = ParseOnly(["fit", "--config", str(CONFIGS / "strict.yaml"), *settings])
    ours = {type(callback).__name__ for callback in cli.trainer.callbacks}
    assert {entry["class_path"] for entry in yaml.safe_load(example)["trainer"]["callbacks"]} <= ours


def test_the_commands_in_the_configs_name_configs_that_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in CONFIGS.rglob("*.yaml"):
        comment = "".join(line for line in file.read_text().splitlines(keepends=True) if line.startswith("#"))
        commands = re.findall(r"python -m atspeed fit (.*)", comment)
        assert len(commands) == (file.parent != CONFIGS), "an overlay says how it is used"
        for command in commands:
            *_, last = [find_config(name) for name in re.findall(r"--config (\S+)", command)]
            assert last == str(file)
