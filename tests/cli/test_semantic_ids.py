"""The command semantic-ids, and that models can be trained on what it writes."""

import logging
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from atspeed.data import EmbeddedCatalog
from atspeed.data.sources.sid_file import read_sids
from tests.cli.running import SMALL_DATA, run_here

SETTINGS = ["semantic-ids", *SMALL_DATA, "--levels", "2", "--codes", "16"]


@pytest.fixture
def _faiss() -> None:
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'atspeed[sids]'")


@pytest.mark.e2e
@pytest.mark.usefixtures("_faiss")
@pytest.mark.parametrize("kind", ["interactions", "npy", "safetensors", "parquet"])
def test_every_item_gets_a_semantic_id_that_can_be_trained_on(kind: str, tmp_path: Path) -> None:
    data = EmbeddedCatalog(40, 140).load()
    vectors = np.random.default_rng(0).standard_normal((140, 5)).astype(np.float32)
    file, given = tmp_path / f"items.{kind}", ["--embeddings", str(tmp_path / f"items.{kind}")]
    if kind == "npy":
        np.save(file, vectors)
    elif kind == "safetensors":
        save_file({"x": vectors}, file)
    elif kind == "parquet":
        pq.write_table(pa.table({"item": data.items["item"], "embedding": vectors.tolist()}), file)
    else:
        given = []
    shown = run_here(*SETTINGS, *given, "--out", str(tmp_path / "sids"))
    assert logging.getLogger("faiss").level == logging.WARNING, "below, it tells what it could not load"
    assert "140 items" in shown
    assert ("have no training interaction" in shown) == (not given)
    catalog = data.with_sids(read_sids(tmp_path / "sids" / "sids.parquet"), skip_missing=False).catalog
    assert (catalog.num_items, catalog.num_levels) == (140, 2)
    assert catalog.codes.unique(dim=0).shape[0] == 140


@pytest.mark.e2e
@pytest.mark.usefixtures("_faiss")
def test_new_items_are_added_by_the_command(tmp_path: Path) -> None:
    np.save(tmp_path / "140.npy", np.random.default_rng(0).standard_normal((140, 5)))
    np.save(tmp_path / "150.npy", np.random.default_rng(0).standard_normal((150, 5)))
    out = ["--out", str(tmp_path / "sids"), "--collisions", "ExtraLevel"]
    run_here(*SETTINGS, *out, "--embeddings", str(tmp_path / "140.npy"))
    old = read_sids(tmp_path / "sids" / "sids.parquet")
    more = ["--data.source.num_items", "150", "--embeddings", str(tmp_path / "150.npy"), "--extend", out[1]]
    assert "150 items, of which 140 had their semantic ID before" in " ".join(run_here(*SETTINGS, *out, *more).split())
    new = read_sids(tmp_path / "sids" / "sids.parquet")
    assert new.slice(0, 140).equals(old)
    assert new["item"].to_pylist()[140:] == [f"item-{number}" for number in range(140, 150)]


@pytest.mark.e2e
def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = ["--out", str(tmp_path / "sids")]
    shown = run_here(*SETTINGS, *out, "--extend", str(tmp_path), code=2)
    assert "error: extend needs embeddings" in shown
    assert "data.source" in run_here("semantic-ids", *out, code=2)
    shown = run_here(*SETTINGS, *out, "--collisions", "NextNeares", code=2)
    assert "there is no class 'NextNeares'; did you mean 'NextNearest'?" in shown
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    shown = run_here(*SETTINGS, *out, "--embeddings", "nowhere.npy", code=1)  # says so before it reads anything
    assert shown.splitlines()[0] == (
        "error: making semantic IDs needs faiss; install it by: pip install 'atspeed[sids]'"
    )
    assert not (tmp_path / "sids").exists()
