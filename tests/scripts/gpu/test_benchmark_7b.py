"""The scripts for the 7B table: what goes in, what they ask for, and, with tiny sizes, all but the GPU."""

import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from atspeed.data import AtSpeedLayout, AtSpeedWriter, EmbeddedCatalog, RecommendationData
from atspeed.decoding import Captured, PriceAwareDrafter
from atspeed.decoding.drafters.calibration import kept_calibration
from atspeed.models import Exported, NewModel, export, model_folder
from atspeed.recommender.calibration_file import load_calibration, save_calibration
from scripts.gpu import benchmark_7b, pack_inputs
from scripts.gpu import round as captured_round
from tests.decoding.priced import calibration_of
from tests.modules.tiny import TINY

CALIBRATION = calibration_of(3, 4)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is packed from a run of random models on generated data."""
    run_dir = tmp_path_factory.mktemp("run")
    layout, folder = run_dir / "layout", run_dir / "inputs"
    layout.mkdir()
    AtSpeedWriter().write(EmbeddedCatalog(num_users=40, num_items=140).load(), layout)
    data = RecommendationData(AtSpeedLayout(layout))
    data.setup("test")
    vocabulary = data.encoder.vocabulary
    for seed, stage in enumerate(("target", "draft")):
        export(NewModel("llama", TINY, seed).build(vocabulary, run_dir), vocabulary, model_folder(run_dir, stage))
    save_calibration(CALIBRATION, Exported("draft"), Exported("target"), run_dir)
    size = pack_inputs.pack(run_dir, layout, "draft", folder)
    assert size == sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return folder


def test_models_are_packed_in_bfloat16_with_a_calibration_that_still_counts(inputs: Path) -> None:
    weights = load_file(inputs / "strict" / "model" / "model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.bfloat16"}
    data = RecommendationData(AtSpeedLayout(inputs / "data"))
    data.setup("test")
    draft, target = Exported("strict"), Exported("target")
    model = draft.build(data.draft_encoder.vocabulary, inputs)
    load_calibration(model, draft, target, inputs)
    assert kept_calibration(model) == CALIBRATION


def test_too_large_a_folder_is_refused(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_inputs, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="MiB, more than 64: train a smaller target"):
        pack_inputs.pack(inputs, inputs / "data", "strict", tmp_path)


@pytest.mark.parametrize(("batch_size", "lengths"), [(4, (32, 64, 104)), (16, (104,))])
def test_a_piece_is_captured_and_priced_for_its_sizes(inputs: Path, batch_size: int, lengths: tuple[int, ...]) -> None:
    options = benchmark_7b.options_for(batch_size, [20, 50], inputs, inputs, tiny=True)
    benchmark, data = captured_round.load(options)
    assert (benchmark.batch_sizes, benchmark.num_beams) == ((batch_size,), (20, 50))
    assert max(len(data.encoder.encode(request.history)) for request in data.test_requests()) <= 104
    for method in benchmark.methods.values():
        if isinstance(method.execution, Captured):
            sizes = method.execution.num_beams, method.execution.batch_sizes, method.execution.prompt_lengths
            assert sizes == ((20, 50), (batch_size,), lengths)
        if isinstance(method.drafter, PriceAwareDrafter):
            assert method.drafter.batch_size == batch_size


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("script", "options", "written"),
    [
        (benchmark_7b, ["--num-beams", "1", "3", "--batch-size", "2"], "benchmark-7b-batch-2-k-1-3"),
        (captured_round, ["--num-beams", "3"], "round"),
        (captured_round, ["--num-beams", "3", "--compile"], "compiled"),
    ],
)
def test_the_scripts_run_on_a_cpu(
    script: object, options: list[str], written: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["script", "--inputs", str(inputs), "--out", str(tmp_path), "--tiny", *options]
    monkeypatch.setattr(sys, "argv", command)
    script.main()  # type: ignore[attr-defined]
    rows = json.loads((tmp_path / f"{written}.json").read_text())["rows"]
    table = (tmp_path / f"{written}.md").read_text()
    assert table.count("\n| ") >= len(rows) + 2
    if script is benchmark_7b:
        captured = {row["method"] for row in rows if row["execution"] == "Captured"}
        assert captured == {row["method"] for row in rows} - {"hf_generate", "plain_eager"}
        assert all(row["illegal_rate"] == row["duplicate_rate"] == 0 for row in rows)
        assert (tmp_path / f"{written}.html").is_file()
