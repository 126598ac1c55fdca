"""One line per epoch, for fits that nobody watches."""

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from atspeed.modules import StageModule

log = logging.getLogger(__name__)


class EpochLines(pl.Callback):
    """Logs one line per epoch where there is no progress bar to watch: standard output or error is no terminal.

    A line has the stage, the epoch, the mean training loss (that of process zero), the learning rate at the end of the
    epoch, the time that the epoch took, and an estimate of the time left, validations included. The command line adds
    the callback to every fit; process zero logs::

        strict: epoch 1 of 3, train loss 2.31, learning rate 0.001, 54 s; about 2 min left
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock (a fit that resumes at the end of an epoch does not start that epoch)."""
        self._shown = trainer.is_global_zero and not has_terminal()
        self._start = self._epoch_start = time.perf_counter()
        self._first_step = trainer.global_step
        self._restart()

    def _restart(self) -> None:
        self._loss: Tensor | float = 0.0
        self._batches = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss of a batch; no value is read from the device."""
        self._loss = self._loss + outputs["loss"] * trainer.accumulate_grad_batches  # it is divided by their number
        self._batches += 1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: StageModule) -> None:  # type: ignore[override]
        """Log the epoch."""
        if not self._shown or self._batches == 0:
            return
        now = time.perf_counter()
        epoch = str(trainer.current_epoch + 1)
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            epoch += f" of {trainer.max_epochs}"
        steps = trainer.global_step - self._first_step  # by now, of this run
        seconds_left = (trainer.estimated_stepping_batches - trainer.global_step) * (now - self._start) / steps
        log.info(
            "%s: epoch %s, train loss %.3g, learning rate %.3g, %s; about %s left",
            pl_module.stage,
            epoch,
            float(self._loss) / self._batches,
            trainer.optimizers[0].param_groups[0]["lr"],
            duration(now - self._epoch_start),
            duration(seconds_left),
        )
        self._epoch_start = now
        self._restart()


def has_terminal() -> bool:
    """Return whether somebody may watch a progress bar: standard output and error are terminals."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits, and the next one for hours.

    >>> duration(59.4), duration(90), duration(5000)
    ('59 s', '2 min', '1 h 23 min')
    """
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
