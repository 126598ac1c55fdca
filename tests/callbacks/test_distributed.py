"""Callbacks in two processes say what they say in one, and one process writes."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch.multiprocessing
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from atspeed.callbacks import LossParts, SpeculationMonitor, SpeedupMonitor, TokenThroughput
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import ModelDrafter, StrictTopK, TrieDrafter
from atspeed.losses import AtSpeedS
from atspeed.models import NewModel
from atspeed.modules import Alignment, Inference
from tests.modules.tiny import TINY, make_trainer

SPECULATION = "target_calls", "draft_calls", "accepted_levels", "acceptance_rate", "acceptance_rate_level_0", "overlap"
TESTED = "recall@5", "hit_rate@5", "ndcg@5", "mrr@5", "catalog_coverage@5", "target_calls", "acceptance_rate"


def values_of(folder: Path, **settings: object) -> dict[str, dict[str, float]]:
    """What a validation, a fit and a test log."""
    data = RecommendationData(EmbeddedCatalog(20, 140), examples="requests", max_tokens=256, batch_size=5)
    module = Alignment("strict", NewModel("llama", TINY, 1), NewModel("llama", TINY, 2), AtSpeedS(4), num_beams=4)
    monitor = SpeculationMonitor(ModelDrafter(8, 3), 4, num_users=9)  # an odd number, so that the shares differ
    checkpoint = ModelCheckpoint(folder / "best", monitor="val/target_calls")
    logger = TensorBoardLogger(folder, name="strict", version="")
    callbacks = [monitor, LossParts(), TokenThroughput(), checkpoint]
    trainer = make_trainer(folder, callbacks=callbacks, logger=logger, limit_val_batches=2, **settings)
    results = {}
    for name, run in (("val", trainer.validate), ("fit", trainer.fit)):
        run(module, data)
        results[name] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    results["fit"]["best"] = float(checkpoint.best_model_score or 0)
    recommender = Inference(
        "recommend", NewModel("llama", TINY, 1), TrieDrafter(), StrictTopK(), num_beams=5, metrics_at=[5]
    )
    settings = {**settings, "use_distributed_sampler": True}
    trainer = make_trainer(folder, callbacks=[SpeedupMonitor(2)], **settings)
    trainer.test(recommender, data, verbose=False)
    results["test"] = {key: float(value) for key, value in trainer.callback_metrics.items()}
    return results


def in_process(rank: int, folder: str, port: int) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results = values_of(Path(folder), strategy="ddp", devices=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(results))


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    torch.multiprocessing.spawn(in_process, (str(tmp_path / "two"), port), nprocs=2)
    first, second = (json.loads((tmp_path / "two" / f"{rank}.json").read_text()) for rank in range(2))
    one = values_of(tmp_path / "one")
    for name in SPECULATION:
        assert first["val"][f"val/{name}"] == pytest.approx(one["val"][f"val/{name}"], rel=1e-5)
    for name in TESTED:
        assert first["test"][f"test/{name}"] == pytest.approx(one["test"][f"test/{name}"], rel=1e-5)
    assert first["fit"]["best"] == pytest.approx(first["fit"]["val/target_calls"])
    for run, names in (("val", one["val"]), ("fit", one["fit"]), ("test", one["test"])):
        assert first[run].keys() == second[run].keys() == names.keys()
    shared = {"val", "test", "best"}, {"train/tokens_per_second", "train/padding"}
    for run in ("val", "fit", "test"):
        for name, value in first[run].items():
            if name.split("/")[0] in shared[0] or name in shared[1]:
                assert value == pytest.approx(second[run][name]), f"{run}: the processes must agree on {name}"
    writers = {file.name.split(".")[-2] for file in (tmp_path / "two" / "strict").glob("events.*")}
    assert len(writers) == 1, "one process writes"
