"""How much faster speculative decoding is than plain beam search."""

from typing import Any

import lightning.pytorch as pl
import torch

from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import NoDrafter
from atspeed.modules import Recommender


class SpeedupMonitor(pl.Callback):
    """Logs ``test/speedup``: wall time of plain beam search over that of the module's drafter.

    Some test batches are decoded once more by the same engine without a drafter, right after the module has done so;
    the value is the median of the ratios. The first batch warms up both and does not count.

    Args:
        num_batches: batches to measure.
    """

    def __init__(self, num_batches: int = 20) -> None:
        require_at_least(1, num_batches=num_batches)
        self.num_batches = num_batches

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the plain decoder."""
        if not isinstance(pl_module, Recommender):
            raise TypeError(f"SpeedupMonitor needs a Recommender, not {type(pl_module).__name__}")
        self._plain = pl_module.decoder(NoDrafter())
        self._ratios: list[float] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Recommender,  # type: ignore[override]
        outputs: Any,
        batch: RequestBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        if batch_idx > self.num_batches:
            return
        speculative = pl_module.decode_seconds
        pl_module.recommend(batch, self._plain, pl_module.item_filter(batch))
        if batch_idx > 0:
            self._ratios.append(pl_module.decode_seconds / speculative)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the median."""
        if self._ratios:
            pl_module.log("test/speedup", torch.tensor(self._ratios).median(), sync_dist=True)
