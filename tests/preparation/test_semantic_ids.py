import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from atspeed.catalog import ExtraLevel, Kept, NextNearest
from atspeed.data import Dataset, InteractionSource, ItemSequences
from atspeed.data.dataset import item_table
from atspeed.data.sources.sid_file import read_sids
from atspeed.preparation import sid_folder
from atspeed.preparation.semantic_ids import SemanticIds

pytest.importorskip("faiss", reason="faiss is not installed: pip install 'atspeed[sids]'")

FILES = {"sids.parquet", "codebooks.safetensors", "semantic_ids.json"}


class Source(InteractionSource):
    """Items without semantic IDs; users of one half of the items, the last item being in no training history."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def load(self) -> Dataset:
        rng, half = np.random.default_rng(0), self.num_items // 2
        train = ItemSequences.from_lists(
            [(rng.permutation(half - 1)[:5] + half * (user % 2)).tolist() for user in range(200)]
        )
        held = ItemSequences.from_lists([[half] if user % 2 else [1] for user in range(200)])
        names = [f"item {number}" for number in range(self.num_items)]
        return Dataset(item_table(names), [str(user) for user in range(200)], train, held, held)


def vectors(num_items: int, dim: int = 6) -> np.ndarray:
    """Embeddings of which some are equal."""
    values = np.random.default_rng(0).standard_normal((num_items, dim)).astype(np.float32)
    values[::7] = values[0]
    return values


@pytest.fixture
def embeddings(tmp_path: Path) -> Callable[[int], Path]:
    """A function that writes embeddings of a number of items."""

    def write(num_items: int, dim: int = 6) -> Path:
        np.save(tmp_path / f"{num_items}x{dim}.npy", vectors(num_items, dim))
        return tmp_path / f"{num_items}x{dim}.npy"

    return write


def sids(folder: Path) -> dict[str, list[str]]:
    table = read_sids(folder / "sids.parquet")
    return dict(zip(table["item"].to_pylist(), table["sid"].to_pylist(), strict=True))


@pytest.mark.parametrize("rule", [NextNearest(), ExtraLevel(), Kept()])
def test_the_folder_holds_what_the_report_says(
    rule: NextNearest, embeddings: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    report = SemanticIds(out, embeddings(100), levels=2, codes=12, collisions=rule, seed=3).run(Source(100))
    assert {file.name for file in out.iterdir()} == FILES
    assert {file.name for file in out.parent.iterdir()} == {"folder"}
    found = sids(out)
    assert list(found) == [f"item {number}" for number in range(100)]
    distinct = len({tuple(sid) for sid in found.values()})
    assert report.after.distinct == distinct == (report.before.distinct if isinstance(rule, Kept) else 100)
    assert report.after.colliding_items == (report.before.colliding_items if isinstance(rule, Kept) else 0)
    assert report.before.colliding_items >= report.before.most_items >= 15  # the equal ones
    assert len(report.levels) == (3 if isinstance(rule, ExtraLevel) else 2)
    for level, row in enumerate(report.levels):
        words = [sid[level] for sid in found.values()]
        shares = [words.count(word) / 100 for word in set(words)]
        assert row.used == len(shares) <= row.codes
        assert row.entropy == pytest.approx(-sum(share * math.log2(share) for share in shares))
        assert row.perplexity == pytest.approx(2**row.entropy)
        assert set(words) <= {f"<{'abc'[level]}_{code}>" for code in range(row.codes)}
    books = load_file(out / "codebooks.safetensors")
    assert sorted(books) == ["level_0", "level_1"]
    assert all((book.shape, book.dtype) == ((12, 6), np.float32) for book in books.values())
    values = vectors(100)
    nearest = ((values[:, None] - books["level_0"]) ** 2).sum(-1).argmin(1)
    error = ((values - books["level_0"][nearest]) ** 2).sum() / ((values - values.mean(0)) ** 2).sum()
    assert report.levels[0].error == pytest.approx(error, rel=1e-4)
    with safe_open(out / "codebooks.safetensors", "np") as tensors:
        metadata = tensors.metadata()
    assert metadata.pop("atspeed")
    assert metadata.pop("faiss")
    rule_name = type(rule).__name__
    assert metadata == {"levels": "2", "codes": "12", "collisions": rule_name, "seed": "3", "embeddings": "file"}
    written = json.loads((out / "semantic_ids.json").read_text())
    assert written["levels"][0]["error"] == report.levels[0].error
    assert written["settings"]["collisions"] == rule_name
    assert (written["items"], written["new_items"]) == (100, 100)
    shown = capsys.readouterr().out
    assert f"items that share one: {report.before.colliding_items} by nearest codes, " in shown
    assert f"--data.source.sids {out}/sids.parquet" in shown


def test_interactions_alone_give_every_item_a_semantic_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    source = Source(80)
    SemanticIds(tmp_path / "first", codes=5).run(source)
    assert "2 of 80 items have no training interaction; their embeddings are zero" in caplog.text  # the last of a half
    data = source.load().with_sids(read_sids(tmp_path / "first" / "sids.parquet"), skip_missing=False)
    assert data.catalog.codes.unique(dim=0).shape[0] == 80
    first = data.catalog.codes[:, 0].tolist()  # no user has items of both halves
    assert not set(first[:39]) & set(first[40:79])


def test_held_out_interactions_change_nothing_but_the_seed_does(tmp_path: Path) -> None:
    class Other(Source):
        def load(self) -> Dataset:
            data = super().load()
            return replace(data, valid=data.train, test=data.train)

    for name, source in (("first", Source(80)), ("second", Other(80)), ("again", Source(80))):
        SemanticIds(tmp_path / name, codes=8).run(source)
    content = [(tmp_path / name / "sids.parquet").read_bytes() for name in ("first", "second", "again")]
    assert content[0] == content[1] == content[2]
    SemanticIds(tmp_path / "seed", codes=8, seed=1).run(Source(80))
    assert sids(tmp_path / "seed") != sids(tmp_path / "first")


@pytest.mark.parametrize("rule", [NextNearest(), ExtraLevel(), Kept()])
@pytest.mark.parametrize("in_place", [True, False])
def test_new_items_leave_the_old_ones_as_they_are(
    rule: NextNearest, in_place: bool, embeddings: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "old"
    settings = {"levels": 2, "codes": 12, "collisions": rule}
    SemanticIds(out, embeddings(60), **settings).run(Source(60))
    old, books = sids(out), load_file(out / "codebooks.safetensors")
    target = out if in_place else tmp_path / "new"
    report = SemanticIds(target, embeddings(100), extend=out, **settings).run(Source(100))
    new = sids(target)
    assert list(new)[:60] == list(old)
    assert {name: new[name] for name in old} == old
    assert list(new)[60:] == [f"item {number}" for number in range(60, 100)]
    assert (report.items, report.new_items) == (100, 40)
    assert report.after.distinct == (report.before.distinct if isinstance(rule, Kept) else 100)
    extended = load_file(target / "codebooks.safetensors")
    assert all(np.array_equal(extended[name], book) for name, book in books.items())
    again = SemanticIds(target, embeddings(80), extend=target, **settings).run(Source(80))  # items may disappear
    assert (again.items, again.new_items, sids(target)) == (100, 0, new)


def test_a_parquet_file_of_the_new_items_is_enough(embeddings: Callable[..., Path], tmp_path: Path) -> None:
    SemanticIds(tmp_path / "old", embeddings(60), codes=12).run(Source(60))
    SemanticIds(tmp_path / "all", embeddings(64), codes=12, extend=tmp_path / "old").run(Source(64))
    names, values = [f"item {number}" for number in range(60, 64)], vectors(64)[60:].tolist()
    pq.write_table(pa.table({"item": names, "embedding": values}), tmp_path / "new.parquet")
    SemanticIds(tmp_path / "new", tmp_path / "new.parquet", codes=12, extend=tmp_path / "old").run(Source(64))
    assert sids(tmp_path / "new") == sids(tmp_path / "all")


def test_what_cannot_be_extended_is_refused(embeddings: Callable[..., Path], tmp_path: Path) -> None:
    old, source = tmp_path / "old", Source(64)
    SemanticIds(old, embeddings(60), levels=2, codes=12).run(Source(60))

    def refused(message: str, error: type[Exception] = ValueError, **changed: object) -> None:
        settings = {"embeddings": embeddings(64), "levels": 2, "codes": 12, "extend": old, **changed}
        with pytest.raises(error, match=message):
            SemanticIds(tmp_path / "new", **settings).run(source)
        assert not (tmp_path / "new").exists()

    made = "old was made with --levels 2 --codes 12 --collisions NextNearest --seed 0; extend needs the same settings"
    refused(made, levels=3)
    refused(made, codes=13)
    refused(made, collisions=ExtraLevel())
    refused(made, seed=1)
    refused("64x5.npy has embeddings of 5 dimensions, but the codebooks of .*old have 6", embeddings=embeddings(64, 5))
    refused("extend needs embeddings", embeddings=None)
    refused("codebooks.safetensors is missing", FileNotFoundError, extend=tmp_path / "nowhere")
    SemanticIds(tmp_path / "factors", levels=2, codes=12).run(Source(60))
    refused("factors was made from interactions, not from embeddings", extend=tmp_path / "factors")
    content = {name: (old / name).read_bytes() for name in FILES}
    pq.write_table(item_table(["soap"], [["<b_1>", "<a_1>"]]), old / "sids.parquet")
    refused("sids.parquet: semantic IDs like <a_12> <b_3> are expected")
    (old / "sids.parquet").write_bytes(content["sids.parquet"])
    (old / "codebooks.safetensors").write_bytes(b"nothing")
    refused("codebooks.safetensors: expected the codebooks that semantic-ids wrote")
    for tensors in ({"x": np.zeros(3)}, {}):
        save_file(tensors, old / "codebooks.safetensors")
        refused("codebooks.safetensors: expected the codebooks that semantic-ids wrote")


def test_semantic_ids_are_not_overwritten(embeddings: Callable[..., Path], tmp_path: Path) -> None:
    SemanticIds(tmp_path / "old", embeddings(60), codes=12).run(Source(60))
    with pytest.raises(FileExistsError, match="old has semantic IDs already, .* name another folder by out"):
        SemanticIds(tmp_path / "old", embeddings(60), codes=12).run(Source(60))


@pytest.mark.parametrize("fault", ["write", "replace"])
def test_a_fault_leaves_nothing_half_written(
    fault: str, embeddings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    file, out = embeddings(60), tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(*((sid_folder.pq, "write_table", fail) if fault == "write" else (os, "replace", fail)))
        with pytest.raises(OSError, match="no space left"):
            SemanticIds(out, file, codes=12).run(Source(60))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"60x6.npy"}
    SemanticIds(out, file, codes=12).run(Source(60))


def test_wrong_settings_are_refused_by_name(embeddings: Callable[..., Path], tmp_path: Path) -> None:
    for message, settings in {
        "levels is 0; expected 1 or more": {"levels": 0},
        "levels is 26; expected less than 26": {"levels": 26},
        "codes is 1; expected 2 or more": {"codes": 1},
        "seed is -1; expected 0 or more": {"seed": -1},
    }.items():
        with pytest.raises(ValueError, match=message):
            SemanticIds(tmp_path, **settings)
    with pytest.raises(ValueError, match="codes is 256, but there are only 60 items"):
        SemanticIds(tmp_path / "out", embeddings(60)).run(Source(60))
    with pytest.raises(ValueError, match="60 items cannot have a semantic ID each: 1 levels of 12 codes make 12"):
        SemanticIds(tmp_path / "out", embeddings(60), levels=1, codes=12).run(Source(60))
    assert not (tmp_path / "out").exists()
