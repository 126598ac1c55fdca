"""Predictions to disk."""

import json
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from atspeed.modules import StageModule


class PredictionWriter(BasePredictionWriter):
    """Writes ``<run folder>/<stage>/predictions-<rank>.jsonl``, one JSON line a request, batch by batch."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start an empty file."""
        if not isinstance(pl_module, StageModule):
            raise TypeError(f"PredictionWriter needs a StageModule, not {type(pl_module).__name__}")
        self._file = pl_module.run_dir / pl_module.stage / f"predictions-{trainer.global_rank}.jsonl"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text("")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append a batch."""
        with self._file.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in prediction)
