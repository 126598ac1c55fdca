"""Random numbers that do not depend on where a fit was interrupted."""

from typing import Any

import lightning.pytorch as pl
import torch


class BatchSeed(pl.Callback):
    """Seeds torch before each training batch, so that dropout depends on seed, epoch, batch and process only.

    A fit that resumes in the middle of an epoch then draws what it would have drawn without the interruption.

    Args:
        seed: of the data.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the batch."""
        position = self.seed, trainer.current_epoch, batch_idx, trainer.global_rank
        torch.manual_seed(hash(position))  # of integers, so the same in every process
