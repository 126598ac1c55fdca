import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch

import atspeed
from atspeed.decoding import BoundedTopK, NoDrafter, PriceAwareDrafter
from atspeed.models import Int8, NewModel, WeightOnly, dtype_name
from atspeed.models.int8 import has_int8_products
from atspeed.prompts import ChatPrompt, CompactPrompt, TextPrompt
from atspeed.recommender import Bundle, Recommender
from atspeed.recommender.manifest import write_manifest
from tests.modules.tiny import TINY
from tests.prompts.tiny_tokenizers import byte_level, save
from tests.recommender.tiny_bundle import TARGET, dataset, write_tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle")


def test_a_bundle_has_models_items_and_settings(folder: Path) -> None:
    bundle = Bundle(folder)
    assert {file.name for file in folder.iterdir()} == {
        *("manifest.json", "recommender.json", "items.parquet", "target", "draft")
    }
    assert bundle.has_draft
    assert vars(bundle.settings.drafter) == {"draft_beams": 10, "gamma": 2}
    assert (bundle.settings.num_beams, bundle.settings.batch_size) == (8, 4)
    assert bundle.catalog.names == dataset().catalog.names
    assert bundle.items["title"][0].as_py()
    model = bundle.source("target").build(bundle.encoders()[0].vocabulary, folder)
    built = TARGET.build(bundle.encoders()[0].vocabulary, folder)
    assert all(ours.equal(theirs) for ours, theirs in zip(model.parameters(), built.parameters(), strict=True))


def test_a_draft_that_nobody_asks_is_left_out(tmp_path: Path) -> None:
    bundle = Bundle(write_tiny_bundle(tmp_path / "bundle", drafter=NoDrafter(), draft_prompt=CompactPrompt()))
    assert not bundle.has_draft
    assert bundle.settings.draft_prompt is None
    assert not (bundle.folder / "draft").exists()
    with pytest.raises(ValueError, match="ModelDrafter needs a draft; set model.draft"):
        write_tiny_bundle(tmp_path / "other", draft=None)


def test_settings_of_the_verifier_are_kept(tmp_path: Path) -> None:
    bundle = Bundle(write_tiny_bundle(tmp_path / "bundle", verifier=BoundedTopK(epsilon=0.3)))
    assert isinstance(bundle.settings.verifier, BoundedTopK)
    assert bundle.settings.verifier.epsilon == 0.3


def truncate(folder: Path) -> None:
    file = folder / "target" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def tamper(folder: Path) -> None:
    file = folder / "target" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit_manifest(folder: Path, **values: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"model.safetensors has \d+ bytes, the manifest says \d+: it is truncated"),
        (tamper, r"the content of .*model.safetensors is not what the manifest lists"),
        (lambda folder: (folder / "draft" / "config.json").unlink(), "incomplete: draft/config.json is missing"),
        (lambda folder: (folder / "target" / "adapter_config.json").write_text("{}"), "does not list, target/adapter"),
        (lambda folder: edit_manifest(folder, format=2), "format 2; the newest known here is 1: update atspeed"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda folder: edit_manifest(folder, files=[]), "manifest.json is damaged"),
        (lambda folder: edit_manifest(folder, files={"x": {}}), "is damaged: a file has no size"),
    ],
)
def test_a_damaged_bundle_is_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        Recommender.load(folder)


def test_sizes_can_be_checked_alone_which_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tamper(folder)
    with caplog.at_level(logging.INFO):
        Bundle(folder, "size")
    assert "their content was not (check: size)" in caplog.text
    truncate(folder)
    with pytest.raises(ValueError, match="truncated"):
        Bundle(folder, "size")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no bundle: it has no manifest.json"):
        Bundle(tmp_path)
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="exists and is no bundle"):
        write_tiny_bundle(tmp_path)
    assert (tmp_path / "notes.txt").exists()


def test_a_bundle_replaces_an_older_one_and_leaves_nothing_behind(folder: Path) -> None:
    before = Bundle(folder).fingerprint
    write_tiny_bundle(folder, num_beams=5)
    bundle = Bundle(folder)
    assert (bundle.settings.num_beams, bundle.fingerprint != before) == (5, True)
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_failed_bundle_leaves_the_older_one(folder: Path) -> None:
    with pytest.raises(ValueError, match="knows no"):
        write_tiny_bundle(folder, target=NewModel("llama", {"wings": 2}))
    assert Bundle(folder).settings.num_beams == 8


def name_class(folder: Path, part: str, class_path: str) -> None:
    """Name another class in the settings, and make the manifest fit, as somebody who may write there could."""
    file = folder / "recommender.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, part: {"class_path": class_path, "init_args": {}}}))
    write_manifest(folder)


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("antigravity.Drafter", "antigravity.Drafter is a class outside atspeed, and would be imported"),
        ("os.system", "os.system is a class outside atspeed"),
        ("atspeed.decoding.ItemTrie", "is no Drafter"),
        ("atspeed.decoding.Nowhere", "there is no class atspeed.decoding.Nowhere"),
        ("atspeed.decoding.drafters.drafter.Drafter", "does not take|abstract"),
    ],
)
def test_a_bundle_is_data(folder: Path, class_path: str, message: str) -> None:
    name_class(folder, "drafter", class_path)
    with pytest.raises(ValueError, match=message):
        Bundle(folder)
    assert "antigravity" not in sys.modules


def test_classes_of_ones_own_are_imported_on_request(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "our_drafters.py").write_text(
        "from atspeed.decoding import NoDrafter\n\nclass Ours(NoDrafter):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name_class(folder, "drafter", "our_drafters.Ours")
    assert type(Bundle(folder, trust_code=True).settings.drafter).__name__ == "Ours"


def test_a_part_that_forgets_its_settings_cannot_be_saved(tmp_path: Path) -> None:
    class Forgetful(NoDrafter):
        def __init__(self, width: int = 3) -> None:
            self.half = width / 2

    with pytest.raises(ValueError, match=r"Forgetful does not keep its settings \['width'\]"):
        write_tiny_bundle(tmp_path / "bundle", drafter=Forgetful())


@pytest.mark.parametrize("chat", [False, True])
def test_a_text_prompt_takes_its_tokenizer_along(tmp_path: Path, chat: bool) -> None:
    tokenizer = byte_level()
    saved = save(tmp_path / "tokenizer", tokenizer)
    prompt = (
        ChatPrompt(saved, "Bought: {history}", add_codes=True)
        if chat
        else TextPrompt(saved, "Bought: {history}\nNext:", "{title} {codes}", add_codes=True)
    )
    long = {**TINY, "max_position_embeddings": 1024}
    models = NewModel("llama", long, 1), NewModel("llama", long, 2)
    folder = write_tiny_bundle(tmp_path / "bundle", *models, prompt=prompt, draft_prompt=CompactPrompt())
    expected = prompt.encoder(dataset().catalog, 6)
    (tmp_path / "tokenizer").rename(tmp_path / "gone")
    target, draft = Bundle(folder).encoders()
    assert target.encode([3, 1, 4]).equal(expected.encode([3, 1, 4]))
    assert draft.encode([3, 1]).equal(CompactPrompt().encoder(dataset().catalog, 6).encode([3, 1]))
    assert Recommender.load(folder).recommend([["item-3"]], k=2)[0].target_calls


def test_a_tokenizer_that_reads_differently_is_refused(tmp_path: Path) -> None:
    saved = save(tmp_path / "tokenizer", byte_level())
    prompt = TextPrompt(saved, "Bought: {history}\nNext:", add_codes=True)
    model = NewModel("llama", {**TINY, "max_position_embeddings": 512})
    folder = write_tiny_bundle(tmp_path / "bundle", model, prompt=prompt, drafter=NoDrafter())
    file = folder / "tokenizer" / "tokenizer.json"
    record = json.loads(file.read_text())
    record["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(record))
    write_manifest(folder)
    with pytest.raises(ValueError, match="the prompt of .* has other tokens than when the bundle was made"):
        Bundle(folder).encoders()


def test_models_are_loaded_in_the_dtype_that_they_came_in(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle")
    assert Recommender.load(folder).target.dtype == torch.float32
    assert Recommender.load(folder, dtype="bfloat16").target.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype is 'float16'; expected float32, bfloat16, int8, int8_weights or "):
        Recommender.load(folder, dtype="float16")


def test_int8_models_are_bundled_as_they_were_before(tmp_path: Path) -> None:
    bundle = Bundle(write_tiny_bundle(tmp_path / "bundle", target=Int8(TARGET)))
    source = bundle.source("target")
    assert isinstance(source, Int8)
    assert not isinstance(bundle.source("draft"), Int8)
    if has_int8_products():
        assert Recommender(bundle).recommend([["item-3"]], k=2)[0].target_calls


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_models_with_quantised_weights_are_bundled_as_their_bases(
    tmp_path: Path, dtype: Literal["int8", "float8_e4m3fn"]
) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", target=WeightOnly(TARGET, dtype))
    recommender = Recommender.load(folder)
    assert (dtype_name(recommender.target), dtype_name(recommender.draft)) == (f"{dtype}_weights", "float32")
    assert recommender.recommend([["item-3"]], k=2)[0].target_calls
    assert dtype_name(Recommender.load(folder, dtype="float32").target) == "float32"


def test_costs_of_calls_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "bundle", drafter=PriceAwareDrafter())
    Recommender.load(folder, cost_folder=tmp_path / "cost")
    assert sorted(file.name for file in (tmp_path / "cost").iterdir()) == ["draft.json", "target.json"]
    stamp = (tmp_path / "cost" / "target.json").stat().st_mtime_ns
    Recommender.load(folder, cost_folder=tmp_path / "cost")
    assert (tmp_path / "cost" / "target.json").stat().st_mtime_ns == stamp
    Bundle(folder)  # nothing was written there


def test_the_recommender_is_what_the_package_shows_first() -> None:
    assert atspeed.Recommender is Recommender
