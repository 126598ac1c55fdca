import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import PreTrainedModel

from atspeed.benchmark import Benchmark, Method
from atspeed.benchmark.growth_record import grown_from
from atspeed.benchmark.report.tables import tables_of
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import BoundedTopK, Captured, ModelDrafter, NoDrafter, TrieDrafter
from atspeed.models import Grown, Int8, ModelSource, NewModel
from atspeed.models.int8 import has_int8_products
from atspeed.models.packing import has_packed_products
from tests.modules.tiny import TINY

TARGET = NewModel("llama", TINY)
DEEPCOPY = copy.deepcopy


def measure(folder: Path, methods: dict[str, Method], target: ModelSource = TARGET, **settings: Any) -> dict[str, Any]:
    draft = NewModel("llama", TINY, seed=1)
    few = {"num_requests": 4, "num_warmup": 1, "coverage_beams": (), "num_threads": torch.get_num_threads()}
    benchmark = Benchmark(target, methods, draft, **{**few, **settings}, out=folder)
    result = benchmark.run(RecommendationData(EmbeddedCatalog(num_users=40, num_items=140), max_history=8))
    written = json.loads((folder / "benchmark" / "benchmark.json").read_text())
    assert written == json.loads(json.dumps(asdict(result)))
    page = (folder / "benchmark" / "benchmark.md").read_text()
    assert page.startswith(f"{written['environment']['device']}; torch {torch.__version__}")
    assert page.count("\n### ") == len(tables_of(result))
    return written


def test_curves_are_measured_once_beside_the_methods(tmp_path: Path) -> None:
    curves = {"draft_widths": (4, 60), "epsilons": (0.3,), "temperatures": (0.5,)}
    settings = {"num_beams": (2, 3), "batch_sizes": (2, 4), **curves}
    result = measure(tmp_path, {"draft": Method(ModelDrafter(5, 2))}, **settings)
    assert [row["method"] for row in result["rows"]] == ["hf_generate", "plain", "draft"] * 4
    narrow, wide, bounded, relaxed = result["curves"]
    for row in result["curves"]:
        assert (row["num_beams"], row["batch_size"], row["requests"], row["phases_ms"]) == (3, 2, 4, None)
    assert [row["draft_beams"] for row in result["curves"]] == [4, 60, 40, 40]
    assert [row["temperature"] for row in result["curves"]] == [None, None, None, 0.5]
    assert [row["epsilon"] for row in result["curves"]] == [None, None, 0.3, None]
    assert 0 < bounded["exact_share"] <= bounded["overlap_with_plain"] <= 1
    assert narrow["identical_to_hf"] == wide["identical_to_hf"] == 1
    assert relaxed["identical_to_hf"] is None
    assert wide["target_calls"] < narrow["target_calls"] <= 4
    (drafted,) = {tuple(row["acceptance_by_level"]) for row in result["rows"][-1:]}
    assert drafted[0] is not None
    assert len(list((tmp_path / "benchmark").glob("figure-*.png"))) == 6
    assert (tmp_path / "benchmark" / "report.html").is_file()


def test_bounded_answers_are_measured_and_not_compared(tmp_path: Path) -> None:
    method = Method(ModelDrafter(5, 2), BoundedTopK(0.9))
    result = measure(tmp_path, {"draft_bounded": method}, num_beams=(5,), draft_widths=(), epsilons=(), temperatures=())
    *exact, bounded = result["rows"]
    assert (bounded["verification"], bounded["temperature"], bounded["draft_beams"]) == ("bounded", None, 5)
    assert bounded["identical_to_hf"] is bounded["max_score_gap"] is None
    assert bounded["target_calls"] < 4
    assert [row["identical_to_hf"] for row in exact] == [1, 1]
    assert "all strict answers, 100.0% were those" in (tmp_path / "benchmark" / "report.html").read_text()


def test_without_a_method_that_drafts_there_are_no_curves(tmp_path: Path) -> None:
    result = measure(tmp_path, {"trie": Method(TrieDrafter())}, num_beams=(2,))
    assert result["curves"] == []
    names = {file.name for file in (tmp_path / "benchmark").glob("figure-*.png")}
    assert names == {f"figure-{name}.png" for name in ("speedup", "phases", "acceptance")}


@pytest.mark.skipif(not has_packed_products(torch.bfloat16), reason="this processor has no bfloat16 products in oneDNN")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bfloat16_target_is_not_copied_and_the_table_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dtype: Literal["float32", "bfloat16"],
) -> None:
    copies = []
    monkeypatch.setattr(copy, "deepcopy", lambda model, *memo: copies.append(model) or DEEPCOPY(model, *memo))
    target = Grown(TARGET, hidden_size=64, num_hidden_layers=2, dtype=dtype)
    result = measure(tmp_path, {"trie": Method(TrieDrafter())}, target, num_beams=(2,))
    shared = dtype == "bfloat16"
    assert any(isinstance(model, PreTrainedModel) for model in copies) != shared
    assert result["setting"]["hf_generate_packed"] == shared
    assert result["environment"]["dtype"] == dtype
    printed = " ".join(capsys.readouterr().out.split())
    assert ("hf_generate on the packed weights of the engine" in printed) == shared
    assert "hf_generate on the packed" in (tmp_path / "benchmark" / "report.html").read_text() or not shared
    assert all(row["recall"] is not None for row in result["rows"])
    grown = result["setting"]["target_grown"]
    assert grown["base"].startswith("NewModel(model_type='llama'")
    assert (grown["base_shape"]["hidden_size"], grown["shape"]["hidden_size"]) == (32, 64)
    assert grown["base_parameters"] < result["setting"]["target_parameters"]
    assert result["setting"]["draft_grown"] is None
    assert (result["setting"]["tie_tolerance"] is not None) == shared
    for row in result["rows"]:
        assert row["illegal_rate"] == row["duplicate_rate"] == 0
        assert (row["near_ties"] is not None) == (shared and row["verification"] == "strict")


def test_what_was_grown_is_told_under_int8_as_well(tmp_path: Path) -> None:
    source = Grown(TARGET, hidden_size=64)
    data = RecommendationData(EmbeddedCatalog(num_users=10, num_items=200))
    data.setup()
    model = source.build(data.encoder.vocabulary, tmp_path)
    record = grown_from(Int8(source), model, data.encoder.vocabulary, tmp_path)
    assert record == grown_from(source, model, data.encoder.vocabulary, tmp_path)
    assert record is not None
    assert grown_from(Int8(TARGET), model, data.encoder.vocabulary, tmp_path) is None


def test_plain_beam_search_may_run_another_way_but_is_plain(tmp_path: Path) -> None:
    methods = {
        "trie": Method(TrieDrafter(64), execution=Captured((2,), (2,), (64,))),
        "plain": Method(NoDrafter(), execution=Captured((2,), (2,), (64,))),
        "plain_eager": Method(NoDrafter()),
        "too_wide": Method(NoDrafter(), execution=Captured((5,))),
    }
    result = measure(tmp_path, methods, num_beams=(2,), batch_sizes=(2,))
    generate, plain, trie, eager, too_wide = result["rows"]
    assert [row["method"] for row in result["rows"]] == ["hf_generate", "plain", "trie", "plain_eager", "too_wide"]
    assert [row["execution"] for row in result["rows"]] == [None, "Captured", "Captured", "Eager", "Eager"]
    assert too_wide["capture_seconds"] is None
    assert too_wide["phases_ms"]["target"] > 0
    assert plain["identical_to_hf"] == trie["identical_to_hf"] == eager["identical_to_hf"] == 1
    assert plain["capture_seconds"] > 0 < trie["capture_seconds"]
    assert eager["capture_seconds"] is eager["peak_memory_gb"] is plain["phases_ms"] is generate["floor"] is None
    assert eager["phases_ms"]["target"] > 0
    for row in (plain, trie, eager):
        assert 0 < row["floor"]["target_ms"] < row["floor"]["latency_ms"]
    assert trie["target_calls"] < plain["target_calls"] == eager["target_calls"] == 4
    assert not methods["plain"].execution.captures, "slots of one setting are released before the next one"
    with pytest.raises(ValueError, match="methods.plain is TrieDrafter with StrictTopK"):
        Benchmark(TARGET, {"plain": Method(TrieDrafter())})


def test_null_requests_are_all_test_users(tmp_path: Path) -> None:
    settings = {"num_beams": (2,), "batch_sizes": (16,), "num_requests": None}
    result = measure(tmp_path, {"trie": Method(TrieDrafter())}, **settings)
    assert {row["requests"] for row in result["rows"]} == {40}


def test_without_profiled_batches_there_are_no_phases(tmp_path: Path) -> None:
    result = measure(tmp_path, {"trie": Method(TrieDrafter())}, num_beams=(2,), profiled_batches=0)
    assert {row["phases_ms"] for row in result["rows"]} == {None}
    assert result["predictions"]["rows"] == []
    names = {file.name for file in (tmp_path / "benchmark").glob("figure-*.png")}
    assert names == {"figure-speedup.png", "figure-acceptance.png"}


@pytest.mark.skipif(not has_int8_products(), reason="this processor has no int8 products in oneDNN")
def test_an_int8_target_is_named_and_counted_as_its_base(tmp_path: Path) -> None:
    exact, ours = (
        measure(tmp_path, {}, target, num_beams=(2,), draft_widths=(), temperatures=())
        for target in (TARGET, Int8(TARGET))
    )
    assert (exact["environment"]["dtype"], ours["environment"]["dtype"]) == ("float32", "int8")
    assert ours["setting"]["target_parameters"] == exact["setting"]["target_parameters"]
    assert json.loads((tmp_path / "cost" / "target.json").read_text())["key"]["dtype"] == "int8"
