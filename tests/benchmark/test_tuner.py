import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from atspeed.benchmark import Tuner
from atspeed.cli.main import main
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import Drafter
from atspeed.decoding.constructor_arguments import constructor_arguments
from atspeed.models import Exported, NewModel
from tests.benchmark.overlays import CONFIGS, recommend_with
from tests.modules.tiny import TINY

DEEP = NewModel("llama", {**TINY, "num_hidden_layers": 12})  # a call costs much, a token little: fewer calls win
THREADS = torch.get_num_threads()


def small_data(batch_size: int = 2) -> RecommendationData:
    return RecommendationData(EmbeddedCatalog(num_users=40, num_items=140), max_history=8, batch_size=batch_size)


def test_the_fastest_is_chosen_and_what_is_slow_is_not(tmp_path: Path) -> None:
    trie, hybrid, widths, gammas = ("auto", 128), (64,), (10,), (1, 3)  # 640 would take all without a draft call
    settings = {"num_beams": 4, "num_finalists": 2, "num_threads": THREADS, "out": tmp_path}
    tuner = Tuner(DEEP, DEEP, trie, hybrid, widths, gammas, **settings)  # type: ignore[arg-type]
    tuned = tuner.run(small_data())
    result = json.loads((tmp_path / "tune" / "tune.json").read_text())
    assert result == json.loads(json.dumps(asdict(tuned)))
    first, final = ([row for row in result["rows"] if row["round"] == name] for name in ("first round", "final"))
    assert [row["candidate"] for row in first] == list(tuner.candidates)
    assert [row["batches"] for row in first + final] == [7] * 7 + [13] * 3
    assert sum(row["candidate"] == "plain" for row in final) == 1
    assert set(sorted(row["speedup_vs_plain"] for row in first if row["candidate"] != "plain")[-2:]) == {
        row["speedup_vs_plain"] for row in first if row["candidate"] in {r["candidate"] for r in final} - {"plain"}
    }
    # a draft as large as the target cannot pay; who knows the prices takes complete levels then, as the trie does
    assert result["chosen"].startswith(("trie", "price-aware"))
    chosen = next(row for row in final if row["candidate"] == result["chosen"])
    low, high = chosen["interval"]
    assert 1 < low <= chosen["speedup_vs_plain"] <= high
    assert chosen["target_calls"] < 4
    overlay = (tmp_path / "tune" / "recommend.yaml").read_text()
    assert f"{chosen['speedup_vs_plain']:.2f} times as fast as plain" in overlay
    expected = tuner.candidates[result["chosen"]]
    found = recommend_with(overlay, tmp_path)
    assert (type(found), constructor_arguments(found)) == (type(expected), constructor_arguments(expected))


def test_without_a_draft_its_candidates_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tiny = NewModel("llama", TINY)
    tuner = Tuner(tiny, Exported("strict"), (64,), (64,), (10,), (2,), 3, num_threads=THREADS, out=tmp_path)
    rows = tuner.run(small_data()).rows
    assert [row.candidate for row in rows] == ["plain", "trie, 64 nodes"] * 2
    assert "left out, because they need a draft: hybrid, 64 nodes; price-aware; draft, N = 10, γ = 2" in caplog.text
    assert "configs/strict.yaml" in caplog.text


def test_too_few_users_for_an_interval_are_refused(tmp_path: Path) -> None:
    tuner = Tuner(NewModel("llama", TINY), num_threads=THREADS, out=tmp_path)
    with pytest.raises(ValueError, match=r"40 validation users .* 2 batches of data.batch_size 16 .* lower"):
        tuner.run(small_data(batch_size=16))


def test_the_command_takes_its_config(tmp_path: Path) -> None:
    settings = ["--draft", "null", "--num_beams", "3", "--num_threads", str(THREADS), "--out", str(tmp_path)]
    target = ["--target", "NewModel", "--target.model_type", "llama", "--target.config", json.dumps(TINY)]
    data = ["--data.source.num_users", "40", "--data.source.num_items", "140", "--data.batch_size", "4"]
    main(["tune", "--config", str(CONFIGS / "tune.yaml"), *target, *settings, *data])
    rows = json.loads((tmp_path / "tune" / "tune.json").read_text())["rows"]
    assert {row["candidate"] for row in rows} == {"plain", "trie, auto nodes", "trie, 64 nodes", "trie, 256 nodes"}
    assert isinstance(recommend_with((tmp_path / "tune" / "recommend.yaml").read_text(), tmp_path), Drafter)
