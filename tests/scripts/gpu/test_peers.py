"""The scripts for a GPU run on a CPU with tiny shapes; what only a GPU runs are graphs and events."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.gpu.peer_shapes import LEVELS, Peer, random_catalog, target_and_draft

ROOT = Path(__file__).parents[3]


def run(name: str, out: Path, *options: str) -> dict:
    command = [sys.executable, "-m", f"scripts.gpu.{name}", "--tiny", "--out", str(out), *options]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    file = out / f"{name.replace('_', '-')}.json"
    assert file.with_suffix(".md").read_text().count("\n| ") > 3
    return json.loads(file.read_text())


@pytest.mark.nightly
def test_the_peers_script_runs_and_answers_are_those_of_plain_search(tmp_path: Path) -> None:
    rows = run("peers", tmp_path)["rows"]
    assert {row["method"] for row in rows} == {"plain", "trie", "draft"}
    assert {row["execution"] for row in rows} == {"Eager", "Captured"}
    assert all(row["illegal"] == row["duplicates"] == 0 for row in rows)
    assert min(row["overlap"] for row in rows) > 0.8  # bfloat16
    assert all(row["times"]["median"] > 0 < row["prefill_ms"] for row in rows)


@pytest.mark.nightly
def test_the_call_cost_script_runs(tmp_path: Path) -> None:
    rows = run("call_cost", tmp_path)["rows"]
    assert {row.get("how") for row in rows} == {None, "measure_cost", "launched"}


@pytest.mark.parametrize("codes", [6, 300])  # a permutation, or draws
def test_a_random_catalog_has_as_many_different_semantic_ids_as_asked_for(codes: int) -> None:
    peer = Peer("", vocabulary=10 + LEVELS * codes, codes=codes, items=100, cases=(), published={})
    trie = random_catalog(peer)
    assert trie.num_leaves == 100
    tokens = trie.tokens(torch.arange(trie.depth_start[LEVELS], trie.num_nodes))
    levels = (tokens - 10) // codes
    assert levels.equal(torch.arange(LEVELS).expand_as(levels))


@torch.no_grad()
def test_the_draft_is_the_targets_first_layers_and_nearly_always_right() -> None:
    peer = Peer("", vocabulary=400, codes=100, items=10, cases=(), published={})
    target, draft = target_and_draft(peer, torch.device("cpu"), tiny=True)
    assert len(draft.model.layers) == 2 < len(target.model.layers)
    assert not any(weight.is_meta for weight in draft.parameters())
    tokens = torch.arange(50)[None]
    best = (model(tokens).logits.argmax(2) for model in (target, draft))
    assert torch.eq(*best).float().mean() > 0.9
