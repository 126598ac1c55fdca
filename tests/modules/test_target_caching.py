import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from atspeed.alignment import SequenceShares, target_cache
from atspeed.cli.main import main
from atspeed.data import EmbeddedCatalog, RecommendationData, RequestBatch
from atspeed.data.splits import Cuts
from atspeed.losses import AtSpeedS
from atspeed.models import NewModel
from atspeed.modules import Alignment, TargetCaching
from tests.modules.tiny import TINY, fit, make_trainer

NUM_BEAMS = 4


def alignment(cached: bool, **settings: object) -> Alignment:
    arguments = {
        "target": NewModel("llama", TINY, 1),
        "draft": NewModel("llama", {**TINY, "attention_dropout": 0.1}, 2),
        "num_beams": NUM_BEAMS,
        "target_cache": Path("cache") if cached else None,
        "warmup_steps": 2,
        **settings,
    }
    return Alignment("strict", loss=AtSpeedS(NUM_BEAMS), **arguments)  # type: ignore[arg-type]


def data(max_history: int = 20, seed: int = 0, num_items: int = 140, cuts: Cuts = "last") -> RecommendationData:
    source = EmbeddedCatalog(num_users=24, num_items=num_items, seed=seed)
    return RecommendationData(source, examples="requests", cuts=cuts, max_history=max_history, max_tokens=512)


def write_cache(run_dir: Path, requests: RecommendationData | None = None, **settings: object) -> TargetCaching:
    caching = TargetCaching(alignment(True, **settings), requests or data())
    make_trainer(run_dir).predict(caching, return_predictions=False)
    return caching


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards also with little data: 24 requests of each split."""
    monkeypatch.setattr(target_cache, "SHARD_REQUESTS", 7)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a complete cache."""
    run_dir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_cache, "SHARD_REQUESTS", 7)
        write_cache(run_dir)
    return run_dir


@pytest.fixture
def run_dir(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    shutil.copytree(made / "cache", tmp_path / "cache")
    return tmp_path


def shards(run_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((run_dir / "cache").iterdir())}


def attach(module: Alignment, run_dir: Path, requests: RecommendationData | None = None, **settings: object) -> None:
    make_trainer(run_dir, limit_val_batches=2, **settings).validate(module, requests or data(), verbose=False)
    module.eval()


class Losses(pl.Callback):
    """The losses of a fit, step by step, and the rows of its requests."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.rows: list[list[int]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: dict, batch: RequestBatch, batch_idx: int
    ) -> None:  # type: ignore[override]
        self.values.append(float(outputs["loss"]))
        self.rows.append(batch.rows.tolist())


@torch.no_grad()
@pytest.mark.parametrize("sources", [SequenceShares(), SequenceShares(1, 0, 2)], ids=str)
def test_losses_are_those_of_the_target_online(made: Path, sources: SequenceShares) -> None:
    cached, online, requests = alignment(True, sources=sources), alignment(False, sources=sources), data()
    attach(cached, made)
    attach(online, made, requests)
    assert not hasattr(cached, "target"), "the target is not loaded"
    loaders = {"train": requests.train_dataloader(), "val": requests.val_dataloader()}
    for split, loader in loaders.items():
        batches = list(loader)
        rows = torch.cat([batch.rows for batch in batches]).tolist()
        assert sorted(rows) == list(range(len(requests.requests(split)))) != rows, "the sampler shuffles or sorts"
        for batch in batches:
            for row, user in zip(batch.rows.tolist(), batch.users.tolist(), strict=True):
                assert requests.requests(split)[row].user == user
            for ours, theirs in zip(cached.losses(batch, split), online.losses(batch, split), strict=True):  # type: ignore[arg-type]
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cache_of_every_cut_holds_its_requests(tmp_path: Path) -> None:
    requests = RecommendationData(EmbeddedCatalog(6, 140), examples="requests", cuts="every", max_tokens=512)
    write_cache(tmp_path, requests)
    cached, online = alignment(True), alignment(False)
    attach(cached, tmp_path, requests)
    attach(online, tmp_path, requests)
    batches = list(requests.train_dataloader())
    rows = torch.cat([batch.rows for batch in batches])
    assert len(rows) == len(requests.dataset.train.values) - 6 > 6, "each item but a user's first"
    for batch in batches:
        for ours, theirs in zip(cached.losses(batch, "train"), online.losses(batch, "train"), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_whole_training_is_that_of_the_target_online(made: Path) -> None:
    trajectories = []
    for cached in (True, False):
        losses = Losses()
        trainer = fit(alignment(cached), data(), made, max_epochs=3, callbacks=[losses])
        trajectories.append((losses, float(trainer.callback_metrics["val/align_loss"])))
    (ours, our_end), (theirs, their_end) = trajectories
    assert ours.rows == theirs.rows
    assert len(ours.values) >= 9
    assert ours.values == pytest.approx(theirs.values, abs=1e-4)
    assert our_end == pytest.approx(their_end, abs=1e-4)


def test_a_cache_has_its_shards_and_no_pickle(made: Path) -> None:
    names = sorted(shards(made))
    numbers = [f"{split}-{number:06d}.safetensors" for split in ("train", "val") for number in range(4)]
    assert names == ["fingerprint.json", *numbers]
    for file in (made / "cache").glob("*.safetensors"):
        header_size = int.from_bytes(file.read_bytes()[:8], "little")
        assert set(json.loads(file.read_bytes()[8 : 8 + header_size])) >= {"beams", "edges", "ends"}


def test_a_prediction_is_the_content_of_a_shard_and_writes_nothing(run_dir: Path) -> None:
    """The step computes, the callback that the module brings writes."""
    (run_dir / "cache" / "train-000001.safetensors").unlink()
    caching = TargetCaching(alignment(True), data())
    trainer = make_trainer(run_dir)
    (shard,) = trainer.predict(caching)  # type: ignore[misc]
    assert (shard.split, shard.number, shard.beams.shape) == ("train", 1, (7, NUM_BEAMS))
    written = caching.cache.folder / "train-000001.safetensors"
    before = written.read_bytes()
    written.unlink()
    with torch.no_grad():
        again = caching.predict_step(("train", 1), 0)
    assert not written.exists()
    caching.cache.write(again)
    assert written.read_bytes() == before


def test_size_on_disk_is_that_of_the_formula(made: Path) -> None:
    """4 bytes a beam and a child, 8 a request and a beam of the depths before: the children of the root and of the
    beams' and the true item's prefixes."""
    requests = data()
    requests.setup()
    module = alignment(True)
    attach(module, made)
    expected = 0
    for split in ("train", "val"):
        for request in requests.requests(split):  # type: ignore[arg-type]
            truth = module.trie.leaves(torch.tensor(request.truth[:1]))
            beams, _ = module.cache.read(split, [request.row], module.trie, truth)  # type: ignore[arg-type]
            prefixes = {0}
            for leaf in [*beams[0].tolist(), int(truth)]:
                while leaf := int(module.trie.parent[leaf]):
                    prefixes.add(leaf)
            expected += (
                4 * NUM_BEAMS
                + 8 * NUM_BEAMS * (module.trie.num_levels - 1)
                + 8
                + 4 * int(module.trie.num_children[list(prefixes)].sum())
            )
    headers = 8 * 500  # at most, 8 shards
    assert expected < module.cache.num_bytes < expected + headers


@pytest.mark.parametrize(
    ("settings", "requests", "precision", "changed"),
    [
        ({"target": NewModel("llama", TINY, 3)}, data(), "32-true", "model.target"),
        ({"num_beams": 5}, data(), "32-true", "model.num_beams"),
        ({}, data(), "bf16-mixed", "trainer.precision"),
        ({}, data(max_history=5), "32-true", "requests (data.source, data.cuts, data.max_history)"),
        ({}, data(cuts="every"), "32-true", "requests (data.source, data.cuts, data.max_history)"),
        ({}, data(seed=1), "32-true", "catalog, requests (data.source, data.cuts, data.max_history), data.prompt"),
    ],
    ids=["weights", "num_beams", "precision", "max_history", "cuts", "data"],
)
def test_a_stale_cache_is_refused(
    made: Path, settings: dict, requests: RecommendationData, precision: str, changed: str
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        attach(alignment(True, **settings), made, requests, precision=precision)
    assert f"is stale, {changed} changed since it was made: delete the folder" in str(error.value)
    if not settings.get("target") and precision == "32-true":
        before = shards(made)
        with pytest.raises(ValueError, match="is stale"):  # nor is it mixed with another one
            make_trainer(made).predict(TargetCaching(alignment(True, **settings), requests))
        if not settings:
            assert shards(made) == before


def test_an_incomplete_cache_is_refused(run_dir: Path) -> None:
    (run_dir / "cache" / "val-000002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"is incomplete: 1 of 8 shards are missing; .* cache-target"):
        attach(alignment(True), run_dir)
    shutil.rmtree(run_dir / "cache")
    with pytest.raises(ValueError, match=r"is incomplete: 8 of 8 shards are missing"):
        attach(alignment(True), run_dir)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_torn_shard_is_refused(run_dir: Path, size: int) -> None:
    shard = run_dir / "cache" / "train-000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"train-000001.safetensors is not a complete shard of a target cache .*delete it"
    ):
        attach(alignment(True), run_dir)


def test_shards_of_unknown_origin_are_refused(run_dir: Path) -> None:
    (run_dir / "cache" / "fingerprint.json").unlink()
    with pytest.raises(ValueError, match="has files but no fingerprint.json"):
        write_cache(run_dir)
    with pytest.raises(ValueError, match="has files but no fingerprint.json"):
        attach(alignment(True), run_dir)


def write_and_die(run_dir: Path) -> None:
    """Be a process that is killed when half of its third shard is on disk."""
    save_file = target_cache.save_file

    def save(content: dict[str, torch.Tensor], file: Path) -> None:
        save_file(content, file)
        if len(list(file.parent.glob("*.safetensors"))) == 2:
            os.truncate(file, file.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    target_cache.SHARD_REQUESTS, target_cache.save_file = 7, save
    write_cache(run_dir)


def test_writing_resumes_after_a_kill(made: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=write_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob("*.partial"))) == 1
    with pytest.raises(ValueError, match=r"is incomplete: 6 of 8 shards are missing"):
        attach(alignment(True), tmp_path)
    finished = sorted((tmp_path / "cache").glob("*.safetensors"))
    written = [file.stat().st_mtime_ns for file in finished]
    write_cache(tmp_path)
    assert shards(tmp_path) == shards(made)
    assert [file.stat().st_mtime_ns for file in finished] == written, "they were not made again"


def test_a_cache_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.target_cache is not set: name the folder"):
        TargetCaching(alignment(False), data())


def test_the_config_of_another_module_is_refused(tmp_path: Path) -> None:
    from atspeed.cli.shipped_configs import CONFIGS

    arguments = ["--config", str(CONFIGS / "draft.yaml"), "--trainer.default_root_dir", str(tmp_path)]
    with pytest.raises(TypeError, match="cache-target needs the config of an Alignment, not of a FineTuning"):
        main(["cache-target", *arguments, "--trainer.accelerator", "cpu"])


def test_help_shows_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cache-target", "--help"])
    output = capsys.readouterr().out
    assert "\n  python -m atspeed cache-target --config strict.yaml --model.target_cache cache\n" in output
    assert "\n  python -m atspeed fit --config" in output
