"""How many tokens per second a training run processes."""

import time

import lightning.pytorch as pl
import torch

from atspeed.data import RequestBatch, SequenceBatch


class TokenThroughput(pl.Callback):
    """Logs ``train/tokens_per_second``, without padding, and ``train/padding``, its share, for each epoch.

    Both count the tokens of all processes.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting; a fit that resumes at the end of an epoch does not get ``on_train_epoch_start``."""
        self._restart()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting."""
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._tokens, self._padded = 0, 0  # without and with padding

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: SequenceBatch | RequestBatch, batch_idx: int
    ) -> None:
        """Count a batch."""
        mask = batch.token_mask if isinstance(batch, SequenceBatch) else batch.prompt_mask
        self._tokens += int(mask.sum())
        self._padded += mask.numel()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch's values."""
        if self._padded == 0:
            return
        counts = torch.tensor([self._tokens, self._padded], device=pl_module.device)
        tokens, padded = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        seconds = time.perf_counter() - self._start
        values = {"train/tokens_per_second": tokens / seconds, "train/padding": 1 - tokens / padded}
        pl_module.log_dict(values, sync_dist=True)
