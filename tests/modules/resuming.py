"""A fit that can be killed: ``python -m tests.modules.resuming RUN_DIR KIND EVERY_N_STEPS KILL_AT_STEP``."""

import json
import os
import signal
import sys
from pathlib import Path

import lightning.pytorch as pl
from torch import Tensor

from atspeed.alignment import SequenceShares
from atspeed.data import EmbeddedCatalog, RecommendationData
from atspeed.losses import AtSpeedS
from atspeed.models import NewModel
from atspeed.modules import Alignment, FineTuning
from tests.modules.tiny import TINY, fit

DROPPING = {**TINY, "attention_dropout": 0.3}
ACCUMULATED = {"fine_tuning": 1, "accumulated": 2, "alignment": 1}


class Recorder(pl.Callback):
    """Writes the users and the loss of each batch to a file, and kills the process after a step."""

    def __init__(self, file: Path, kill_at_step: int | None = None) -> None:
        file.parent.mkdir(exist_ok=True)
        self.file = file
        self.kill_at_step = kill_at_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        record = trainer.current_epoch, batch_idx, batch.users.tolist(), float(outputs["loss"])
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if trainer.global_step == self.kill_at_step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(
    run_dir: Path, kind: str, every_n_steps: int, kill_at_step: int | None = None, resume: bool = False
) -> dict[str, Tensor]:
    """Fit for three epochs, with dropout; return the weights."""
    source = EmbeddedCatalog(num_users=40, num_items=140)
    if kind == "alignment":
        target, draft = NewModel("llama", TINY, 1), NewModel("llama", DROPPING, 2)
        sources = SequenceShares(target=1, draft=1, truth=1)
        module: Alignment | FineTuning = Alignment(
            "strict", target, draft, AtSpeedS(3), num_beams=3, sources=sources, warmup_steps=2
        )
        data = RecommendationData(source, examples="requests", max_tokens=512)
    else:
        module = FineTuning("target", NewModel("llama", DROPPING), warmup_steps=2)
        data = RecommendationData(source, max_tokens=512)
    checkpoint = pl.callbacks.ModelCheckpoint(
        run_dir / "checkpoints", every_n_train_steps=every_n_steps, save_last=True, save_top_k=0
    )
    fit(
        module,
        data,
        run_dir,
        ckpt_path="last" if resume else None,
        max_epochs=3,
        accumulate_grad_batches=ACCUMULATED[kind],
        callbacks=[checkpoint, Recorder(run_dir / "losses.jsonl", kill_at_step)],
        gradient_clip_val=1.0,
    )
    return module.model.state_dict()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
