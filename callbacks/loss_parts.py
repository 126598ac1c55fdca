"""The parts of an alignment loss, logged."""

from collections import Counter
from functools import partial
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from atspeed.callbacks.required_module import require_module
from atspeed.data import RequestBatch
from atspeed.losses import AlignmentLoss
from atspeed.modules import Alignment


class LossParts(pl.Callback):
    """Logs the parts of an alignment loss that is made of others, before they are weighted.

    A loss that holds other losses as submodules (``AtSpeedS``, ``WeightedSum``, one of your own) computes them anyway;
    this callback reads their values. ``train/align_loss/<class>`` and ``val/align_loss/<class>``, in nats, are means
    over requests as ``align_loss`` is; a second part of the same class is ``<class>_2``. The cost is not measurable.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Register hooks on the parts."""
        loss = require_module(self, pl_module, Alignment).loss
        self._values: dict[str, Tensor] = {}
        self._hooks = []
        numbers: Counter[str] = Counter()
        for part in loss.modules():
            if isinstance(part, AlignmentLoss) and part is not loss:
                name = type(part).__name__
                numbers[name] += 1
                name = name if numbers[name] == 1 else f"{name}_{numbers[name]}"
                self._hooks.append(part.register_forward_hook(partial(self._add, name)))

    def _add(self, name: str, part: nn.Module, prefixes: Any, value: Tensor) -> None:
        self._values[name] = self._values.get(name, 0) + value.detach().mean()  # a loss is called once per level

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: RequestBatch, batch_idx: int
    ) -> None:
        """Log a training batch."""
        self._log("train", pl_module, batch)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RequestBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log a validation batch."""
        self._log("val", pl_module, batch)

    def _log(self, split: str, module: pl.LightningModule, batch: RequestBatch) -> None:
        values: dict[str, Any] = {f"{split}/align_loss/{name}": value for name, value in self._values.items()}
        module.log_dict(values, batch_size=len(batch.users), sync_dist=split == "val")
        self._values = {}

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
