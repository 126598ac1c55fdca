"""Predictions on disk."""

import json
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pyarrow as pa
from lightning.pytorch.utilities.exceptions import SIGTERMException
from pyarrow.parquet import ParquetWriter

from atspeed.callbacks.prediction_parts import PredictionParts, Record
from atspeed.callbacks.required_module import require_module
from atspeed.data import RequestBatch
from atspeed.files import write_atomically
from atspeed.modules import Inference
from atspeed.recommender.answer_columns import ANSWER_FIELDS

log = logging.getLogger(__name__)

SCHEMA = pa.schema([pa.field("user", pa.string()), *ANSWER_FIELDS])
ROW_GROUP = 4096


class PredictionWriter(pl.Callback):
    """Writes ``<run folder>/<stage>/predictions.jsonl`` (or ``.parquet``), one record per request in input order.

    A record has ``user``, ``recommended`` (best first; ``items``: all that share the semantic ID; ``sid``: its codes;
    ``score``: its log-probability) and ``target_calls``.

    During a run, each process appends the batches that it finishes to the folder ``predictions.parts``. When all
    requests are answered, the file appears and the folder is removed. Repeating the command of an interrupted run
    answers the remaining requests, with any number of processes. Repeating the command of a finished run starts from
    the beginning and replaces the file at its end. All processes must see the same folder.

    Args:
        format: ``jsonl`` (JSON lines) or ``parquet``.
    """

    def __init__(self, format: Literal["jsonl", "parquet"] = "jsonl") -> None:  # noqa: A002  (its name in a config)
        self.format = format

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Skip the requests that an interrupted run has answered."""
        if stage != "predict":
            return
        module = require_module(self, pl_module, Inference)
        self._parts = PredictionParts(module.run_dir / module.stage / "predictions.parts")
        rows = None
        if trainer.is_global_zero:
            self._parts.prepare(module.answer_settings())
            answered = self._parts.answered()
            requests = len(module.data.predict_histories.users)
            rows = [row for row in range(requests) if row not in answered]
            if answered:
                log.info("resuming: %d of %d requests are answered already", len(answered), requests)
        module.data.predict_rows = trainer.strategy.broadcast(rows)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RequestBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a batch; stop after a SIGTERM, which the Trainer notes but does not act on when it predicts."""
        self._parts.append(trainer.global_rank, batch.rows.tolist(), outputs)
        if trainer.received_sigterm:
            raise SIGTERMException

    def teardown(self, trainer: pl.Trainer, pl_module: Inference, stage: str) -> None:  # type: ignore[override]
        """Merge the parts (here, because a process without requests gets no other hook of a prediction)."""
        if stage != "predict":
            return
        trainer.strategy.barrier("predictions")
        if not trainer.is_global_zero:
            return
        answered, requests = len(self._parts.answered()), len(pl_module.data.predict_histories.users)
        if answered < requests:
            log.warning(
                "%d of %d requests are answered; repeat the command to resume from %s",
                answered,
                requests,
                self._parts.folder,
            )
            return
        file = self._parts.folder.with_name(f"predictions.{self.format}")
        write = {"jsonl": _write_json_lines, "parquet": _write_parquet}[self.format]
        write_atomically(file, lambda partial: write(partial, self._parts.records()))
        self._parts.remove()
        log.info("wrote %d recommendations to %s", requests, file)


def _write_json_lines(file: Path, records: Iterator[Record]) -> None:
    with file.open("w") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


def _write_parquet(file: Path, records: Iterator[Record]) -> None:
    with ParquetWriter(file, SCHEMA) as writer:
        while rows := list(islice(records, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
