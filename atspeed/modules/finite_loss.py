"""A fit that stops before a broken loss reaches the weights."""

import lightning.pytorch as pl
from torch import Tensor

from atspeed.data import RecommendationData, RequestBatch, SequenceBatch


class FiniteLoss(pl.Callback):
    """Stops a fit at a loss that is not finite, before the weights are touched, in all processes together.

    Args:
        data: names the users of the batch.
    """

    def __init__(self, data: RecommendationData) -> None:
        self.data = data

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: SequenceBatch | RequestBatch, batch_idx: int
    ) -> None:
        """Remember whose batch it is."""
        self._users, self._batch_idx = batch.users, batch_idx

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Raise ``FloatingPointError`` if the loss is not finite, in this process or in another one."""
        # All raise together: one that waits for gradients of another, which saves a checkpoint, would wait for ever.
        if trainer.strategy.reduce(loss.detach().clone(), reduce_op="sum").isfinite():
            return
        position = f"epoch {trainer.current_epoch}, batch {self._batch_idx} (both from 0)"
        if loss.isfinite():
            raise FloatingPointError(f"the loss of another process is not finite in {position}")
        users = [self.data.dataset.users[row] for row in self._users.tolist()]
        raise FloatingPointError(
            f"the loss is {loss.item()} in {position}, process {trainer.global_rank}, with the users "
            f"{', '.join(users)}; the weights are those before the batch. Look at these users' items, lower "
            "model.learning_rate or set trainer.gradient_clip_val, and resume from the last checkpoint with "
            "--ckpt_path last"
        )
