"""The comparison of drafts: what it says of a perfect draft and of an untrained one."""

import json
from pathlib import Path

import matplotlib.image
import pytest

from atspeed.benchmark import AlignmentBenchmark, Method
from atspeed.callbacks import HuggingFaceExport
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import HybridDrafter, ModelDrafter, RelaxedSampling, StrictTopK
from atspeed.models import Exported, NewModel
from atspeed.modules import FineTuning
from tests.modules.tiny import TINY, fit

TARGET = Exported("target")
METHODS = {
    "draft": Method(ModelDrafter(draft_beams=30, gamma=3), StrictTopK()),
    "hybrid": Method(HybridDrafter(max_nodes=120), StrictTopK()),
    "relaxed": Method(ModelDrafter(draft_beams=30, gamma=3), RelaxedSampling(temperature=1.0)),
}


def make_data() -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users=40, num_items=140), batch_size=4, max_tokens=1024)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("run")
    # trained to know what is legal: a draft is ranked over legal codes, and only such a target ranks likewise
    module = FineTuning("target", NewModel("llama", TINY, 1), learning_rate=1e-2, warmup_steps=2)
    fit(module, make_data(), out, max_epochs=6, callbacks=[HuggingFaceExport()])
    drafts = {"untrained": NewModel("llama", TINY, 2), "perfect": TARGET}
    settings = {"num_beams": (1, 4), "draft_beams": (4, 16, 64), "num_requests": 10, "device": "cpu"}
    AlignmentBenchmark(TARGET, drafts, METHODS, **settings, out=out).run(make_data())  # type: ignore[arg-type]
    assert matplotlib.image.imread(out / "benchmark" / "alignment.png").std() > 0
    return json.loads((out / "benchmark" / "alignment.json").read_text())


def test_every_draft_is_measured_with_every_method(result: dict) -> None:
    rows = {(row["draft"], row["method"], row["num_beams"]) for row in result["rows"]}
    assert rows == {(d, m, k) for d in ("untrained", "perfect") for m in METHODS for k in (1, 4)}
    assert result["setting"]["requests"] == 10
    assert result["environment"]["commit"]


def test_the_first_draft_is_the_baseline_and_a_perfect_one_needs_fewer_calls(result: dict) -> None:
    for row in result["rows"]:
        if row["draft"] == "untrained":
            assert row["difference"] == row["interval"] == 0
        else:
            (baseline,) = [
                other
                for other in result["rows"]
                if (other["draft"], other["method"], other["num_beams"])
                == ("untrained", row["method"], row["num_beams"])
            ]
            assert row["difference"] == pytest.approx(row["target_calls"] - baseline["target_calls"])
            if row["method"] != "relaxed":
                assert row["target_calls"] == 1
                assert row["accepted_levels"] == 3
    found = [row for row in result["rows"] if row["draft"] == "perfect" and row["difference"] + row["interval"] < 0]
    assert {row["method"] for row in found} >= {"draft", "hybrid"}


def test_strict_answers_do_not_depend_on_the_draft(result: dict) -> None:
    recalls: dict[tuple, set] = {}
    for row in result["rows"]:
        if row["method"] != "relaxed":
            recalls.setdefault((row["num_beams"]), set()).add(row["recall"])
    assert all(len(values) == 1 for values in recalls.values())


def test_coverage_grows_with_the_width_and_is_larger_for_a_perfect_draft(result: dict) -> None:
    for width in (1, 4):
        untrained, perfect = (
            [row["coverage"] for row in result["coverage"] if (row["draft"], row["num_beams"]) == (draft, width)]
            for draft in ("untrained", "perfect")
        )
        assert len(perfect) == 3
        assert {row["level"] for row in result["coverage"]} == {1}, "prefixes of two codes"
        assert perfect == sorted(perfect)
        assert perfect[-1] == 1
        assert untrained[0] < perfect[0]


def test_a_benchmark_without_drafts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drafts is empty"):
        AlignmentBenchmark(TARGET, {}, METHODS, out=tmp_path)
    with pytest.raises(ValueError, match="num_requests is 1; expected 2 or more"):
        AlignmentBenchmark(TARGET, {"a": TARGET}, METHODS, num_requests=1, out=tmp_path)
