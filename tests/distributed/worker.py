"""The processes of the distributed tests: ``python -m tests.distributed.worker <folder> <strategy> …``.

Imports once, and forks two processes for each strategy. They train with atspeed's own modules, and write what they saw
to ``<folder>/<strategy>/<rank>.pt`` and their output to ``<rank>.log``. The test process calls :func:`fine_tune` and
:func:`align` itself, for the single process to compare with.
"""

import faulthandler
import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import TorchElasticEnvironment

from atspeed.callbacks import HuggingFaceExport
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.decoding import StrictTopK, TrieDrafter
from atspeed.losses import AtSpeedS
from atspeed.models import Checkpoint, LoRA, ModelSource, NewModel, unsharded_state
from atspeed.modules import Alignment, FineTuning, Inference, TargetCaching
from tests.distributed.strategies import CPUDeepSpeedStrategy
from tests.modules.tiny import TINY, make_trainer

TOKENS = torch.tensor([[1, 3, 4, 5]])
TRAINER = {"max_epochs": 2, "gradient_clip_val": 1.0}
SINGLE = {**TRAINER, "accumulate_grad_batches": 2}
"""What makes one process take at a time the two batches that two processes take."""


def two_processes(strategy: str) -> dict[str, Any]:
    """Return the Trainer's settings for a strategy: ``ddp``, ``zero2``, ``zero3`` or ``zero3-offload``."""
    chosen: Any = "ddp"
    if strategy != "ddp":
        # weights below the threshold, here all, would be put together once and stay so
        zero: dict[str, Any] = {"stage": int(strategy[4]), "stage3_param_persistence_threshold": 0}
        if strategy.endswith("offload"):
            zero |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        config = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
        chosen = CPUDeepSpeedStrategy(config={**config, "zero_optimization": zero})
    return {**TRAINER, "strategy": chosen, "devices": 2, "plugins": [TorchElasticEnvironment()]}


class Watch(pl.Callback):
    """Keeps the loss of every batch of this process, and what this process holds of each weight.

    ``shards`` has (elements held, elements of the whole weight), when the models were built and when training starts.
    """

    def __init__(self, module: pl.LightningModule) -> None:
        self.seen: dict[str, Any] = {"losses": []}
        configure_model = module.configure_model

        def build_and_look() -> None:
            if not hasattr(module, "model"):
                configure_model()
                self.seen["built"] = self._held(module)
                self.seen["initial"] = {name: value.clone() for name, value in unsharded_state(module.model).items()}  # type: ignore[arg-type]

        module.configure_model = build_and_look  # type: ignore[method-assign]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen["training"] = self._held(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen["losses"].append(float(trainer.callback_metrics["train/loss"]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        masters = getattr(trainer.optimizers[0], "single_partition_of_fp32_groups", None)
        masters = masters or getattr(trainer.optimizers[0], "fp32_partitioned_groups_flat", [])
        self.seen["optimized"] = sum(part.numel() for part in masters)
        pl_module.model.eval()
        with torch.no_grad():
            self.seen["logits"] = pl_module.model(TOKENS).logits.float()

    @staticmethod
    def _held(module: pl.LightningModule) -> dict[str, tuple[int, int]]:
        return {
            name: (weight.numel() + weight.ds_tensor.numel(), weight.ds_numel)
            if hasattr(weight, "ds_id") and weight.numel() == 0
            else (weight.numel(), weight.numel())
            for name, weight in module.named_parameters()
        }


def run(module: Any, data: RecommendationData, run_dir: Path, resume: str | None, settings: dict) -> dict[str, Any]:
    """Fit with a checkpoint every epoch and an export, and return what was seen."""
    watch = Watch(module)
    checkpoints = ModelCheckpoint(run_dir / "checkpoints", filename="{epoch}", save_top_k=-1)
    trainer = make_trainer(run_dir, callbacks=[watch, checkpoints, HuggingFaceExport()], **settings)
    torch.manual_seed(0)
    ckpt_path = str(run_dir / "checkpoints" / resume) if resume else None
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return watch.seen


def fine_tune(run_dir: Path, settings: dict, network: ModelSource, resume: str | None = None) -> dict:
    """Fine-tune a network."""
    module = FineTuning("target", network, learning_rate=1e-2, warmup_steps=2)
    data = RecommendationData(EmbeddedCatalog(num_users=60, num_items=140), max_tokens=512)
    return run(module, data, run_dir, resume, settings)


def alignment(models: Path) -> Alignment:
    """An alignment of the folder's draft with its target."""
    target, draft = (Checkpoint(models / name) for name in ("target", "draft"))
    return Alignment(
        "strict", target, draft, AtSpeedS(4), num_beams=4, target_cache=None, learning_rate=1e-2, warmup_steps=2
    )


def requests() -> RecommendationData:
    """Requests to align on."""
    return RecommendationData(EmbeddedCatalog(num_users=60, num_items=140), examples="requests", max_tokens=1024)


def align(run_dir: Path, settings: dict, models: Path, resume: str | None = None) -> dict:
    """Align a draft with a target."""
    return run(alignment(models), requests(), run_dir, resume, settings)


def refusals(run_dir: Path, strategy: str, models: Path) -> list[str]:
    """Return the errors of decoding and of cache-target."""
    recommender = Inference(
        "recommend", Checkpoint(models / "target"), TrieDrafter(), StrictTopK(), num_beams=4, metrics_at=[4]
    )
    module = alignment(models)
    module.target_cache = Path("cache")
    messages = []
    for start in (
        lambda trainer: trainer.test(recommender, requests()),
        lambda trainer: trainer.predict(TargetCaching(module, requests())),
    ):
        try:
            start(make_trainer(run_dir, **two_processes(strategy)))
        except ValueError as error:
            messages.append(str(error))
    return messages


def work(strategy: str, folder: Path) -> dict[str, Any]:
    """Return all that is to be seen with a strategy."""
    run_dir, models = folder / strategy, folder / "models"
    network = Checkpoint(models / "target")

    def settings(**more: Any) -> dict[str, Any]:
        return {**two_processes(strategy), **more}

    results: dict[str, Any] = {
        "fine-tuning": fine_tune(run_dir / "fine-tuning", settings(), network),
        "alignment": align(run_dir / "alignment", settings(), models),
        "fine-tuning resumed": fine_tune(run_dir / "fine-tuning", settings(), network, resume="epoch=0.ckpt"),
        "alignment resumed": align(run_dir / "alignment", settings(), models, resume="epoch=0.ckpt"),
    }
    if strategy != "ddp":
        results["alignment bf16"] = align(run_dir / "bf16", settings(precision="bf16-mixed"), models)
    if strategy == "zero3":
        foreign = Checkpoint(models / "foreign", new_vocabulary=True)
        results["foreign"] = fine_tune(run_dir / "foreign", settings(), foreign)
        adapted = LoRA(foreign, rank=4, dropout=0.0)
        results["lora"] = fine_tune(run_dir / "lora", settings(precision="bf16-mixed"), adapted)
        results["new"] = fine_tune(run_dir / "new", settings(), NewModel("llama", TINY))
        results["offload"] = fine_tune(run_dir / "offload", two_processes("zero3-offload"), network)
        results["refusals"] = refusals(run_dir / "refusals", strategy, models)
    return results


def process(strategy: str, folder: Path, rank: int, port: int) -> None:
    """Be one of the two processes."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    log = os.open(folder / strategy / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.dump_traceback_later(600)  # says where processes wait for each other for ever
    torch.save(work(strategy, folder), folder / strategy / f"{rank}.pt")


def launch(strategy: str, folder: Path) -> None:
    """Run both processes; end the other one when one fails, or it would wait for ever."""
    (folder / strategy).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=process, args=(strategy, folder, rank, port)) for rank in range(2)]
    for one in processes:
        one.start()
    while alive := [one.sentinel for one in processes if one.is_alive()]:  # to wait for none is to wait for ever
        multiprocessing.connection.wait(alive)
        if any(one.exitcode for one in processes):
            for one in processes:
                one.kill()  # not terminate: Lightning catches that signal, and a process that waits is deaf
    if any(one.exitcode for one in processes):
        sys.exit(f"a process of {strategy} failed")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        launch(name, Path(sys.argv[1]))
