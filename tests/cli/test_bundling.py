"""``bundle``, and ``--bundle`` of the commands that read one."""

import json
from pathlib import Path

import pytest
import yaml

from atspeed.catalog import CompactVocabulary
from atspeed.cli.bundling import with_bundle
from atspeed.data import EmbeddedCatalog
from atspeed.models import Int8, NewModel, WeightOnly, export, model_folder
from atspeed.recommender import Bundle, Recommender
from tests.cli.running import SMALL_DATA, run_here
from tests.modules.tiny import TINY
from tests.recommender.tiny_bundle import TARGET, write_tiny_bundle

HISTORIES = [
    {"user": f"u{row}", "history": [f"item-{(7 * row + step) % 140}" for step in range(row % 5)]} for row in range(9)
]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a random target and draft."""
    folder = tmp_path_factory.mktemp("run")
    vocabulary = CompactVocabulary(EmbeddedCatalog(num_users=40, num_items=140).load().catalog.words)
    for seed, stage in enumerate(("target", "strict")):
        source = NewModel("llama", {**TINY, "initializer_range": 0.3}, seed)
        export(source.build(vocabulary, folder), vocabulary, _made(model_folder(folder, stage)))
    return folder


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def bundle(run_dir: Path) -> Path:
    overlay = run_dir / "tune.yaml"  # as tune writes it
    overlay.write_text(
        "model: {init_args: {drafter: {class_path: ModelDrafter, init_args: {draft_beams: 12, gamma: 2}}, "
        "verifier: {class_path: StrictTopK}}}\n"
    )
    out = run_dir / "recommender"
    output = run_here(
        *("bundle", "--config", "recommend.yaml", "--config", str(overlay), *SMALL_DATA, "--out", str(out)),
        *("--trainer.default_root_dir", str(run_dir), "--model.num_beams", "8", "--model.metrics_at", "[5]"),
        *("--data.max_history", "6", "--data.batch_size", "4"),
    )
    assert "wrote the bundle" in output
    assert "140 items" in output
    return out


def test_a_bundle_has_the_settings_of_a_prediction_and_the_overlay_of_tune(bundle: Path) -> None:
    settings = Bundle(bundle).settings
    assert vars(settings.drafter) == {"draft_beams": 12, "gamma": 2}
    assert (settings.num_beams, settings.max_history, settings.batch_size) == (8, 6, 4)


def test_predictions_from_a_bundle_are_those_of_its_recommender(bundle: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps(each) + "\n" for each in HISTORIES))
    run = ["--trainer.default_root_dir", str(tmp_path), "--data.histories", str(requests)]
    run_here("predict", "--bundle", str(bundle), *run)
    lines = (tmp_path / "recommend" / "predictions.jsonl").read_text().splitlines()
    answers = Recommender.load(bundle).recommend([each["history"] for each in HISTORIES], k=8)
    for line, request, answer in zip(map(json.loads, lines), HISTORIES, answers, strict=True):
        assert line["user"] == request["user"]
        assert [each["items"] for each in line["recommended"]] == [each.items for each in answer.recommended]
        scores = [each.score for each in answer.recommended]
        assert [each["score"] for each in line["recommended"]] == pytest.approx(scores, abs=1e-4)
        assert (line["target_calls"] > 0) == bool(request["history"])


def test_a_bundle_is_tested_and_benchmarked_on_data_of_its_items(bundle: Path, tmp_path: Path) -> None:
    run = ["--trainer.default_root_dir", str(tmp_path), "--trainer.callbacks", "[]"]
    output = run_here("test", f"--bundle={bundle}", *SMALL_DATA, *run)
    assert "test/recall@8" in output
    few = ["--num_requests", "6", "--coverage_beams", "[]", "--draft_widths", "[]", "--epsilons", "[]"]
    settings = [*few, "--temperatures", "[]", "--num_warmup", "0", "--profiled_batches", "0", "--out", str(tmp_path)]
    run_here("benchmark", "--bundle", str(bundle), *SMALL_DATA, *settings)
    rows = json.loads((tmp_path / "benchmark" / "benchmark.json").read_text())["rows"]
    assert {(row["method"], row["num_beams"]) for row in rows} == {
        (name, 8) for name in ("hf_generate", "plain", "bundle")
    }
    assert all(row["identical_to_hf"] in (1, None) for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["test", "--bundle", "x"], "test --bundle needs --data.source: a bundle has items, but no users"),
        (["predict", "--bundle", "x"], "predict --bundle needs --data.histories"),
        (["predict", "--bundle"], "--bundle takes the folder of one bundle"),
        (["predict", "--bundle", "x", "--bundle", "y"], "--bundle takes the folder of one bundle"),
        (["bundle", "--config", "recommend.yaml"], "arguments are required: out"),
    ],
)
def test_what_is_missing_is_named(arguments: list[str], message: str) -> None:
    assert message in run_here(*arguments, code=2)


def test_other_failures_say_what_to_do(tmp_path: Path) -> None:
    assert "is no bundle" in run_here("predict", "--bundle", str(tmp_path), "--data.histories", "x", code=1)
    out = ["--out", str(tmp_path / "out"), "--trainer.default_root_dir", str(tmp_path)]
    assert "this stage needs the 'target' model" in run_here("bundle", "--config", "recommend.yaml", *out, code=1)
    assert "bundle needs the config of an Inference" in run_here("bundle", "--config", "target.yaml", *out, code=1)


@pytest.mark.parametrize("source", [Int8(TARGET), WeightOnly(TARGET, "float8_e4m3fn")], ids=["int8", "float8"])
def test_a_quantised_target_is_named_with_its_base(tmp_path: Path, source: Int8 | WeightOnly) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", target=source)
    overlay = yaml.safe_load(with_bundle("benchmark", ["--bundle", str(folder), "--data.source", "X"])[1])
    settings = overlay["target"]["init_args"]
    assert overlay["target"]["class_path"] == type(source).__name__
    assert settings.pop("base")["init_args"] == {
        **{"path": str(folder / "target"), "new_vocabulary": False, "new_tokens": None, "dtype": "bfloat16"},
        **{"adapter_base": None, "trust_code": False, "allow_pickle": False, "seed": 0},
    }
    assert settings == ({} if isinstance(source, Int8) else {"dtype": "float8_e4m3fn"})
