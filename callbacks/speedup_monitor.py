"""How much faster speculative decoding is than plain beam search."""

import time
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torchmetrics import CatMetric

from atspeed.callbacks.required_module import require_module
from atspeed.checks import require_at_least
from atspeed.data import RequestBatch
from atspeed.decoding import NoDrafter, SpeculativeDecoder, request_seeds
from atspeed.modules import Inference


class SpeedupMonitor(pl.Callback):
    """Logs ``test/speedup``: wall time of plain beam search over that of the module's drafter.

    The first test batches are decoded twice more: as the module does, and by the same engine without a drafter. Which
    of the two comes first changes from batch to batch, because each leaves warm caches to the other. The value is the
    median of the ratios per batch, over all processes. The first batch of a process warms up both and does not count.
    On a GPU the time is measured between two CUDA events.

    Args:
        num_batches: number of batches to measure in each process.

    Raises:
        ValueError: if ``num_batches`` is below 1.
    """

    def __init__(self, num_batches: int = 20) -> None:
        require_at_least(1, num_batches=num_batches)
        self.num_batches = num_batches

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the metric."""
        module = require_module(self, pl_module, Inference)
        self._ratios = CatMetric().to(module.device)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Inference,  # type: ignore[override]
        outputs: Any,
        batch: RequestBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure a batch."""
        if batch_idx > self.num_batches:
            return
        if batch_idx == 0:  # not earlier: by now the module has packed the models and knows what calls cost
            self._decoders = {"plain": pl_module.decoder(NoDrafter()), "speculative": pl_module.main_decoder}
        names = sorted(self._decoders, reverse=batch_idx % 2 == 0)
        seconds = {name: self._seconds(self._decoders[name], pl_module, batch) for name in names}
        if batch_idx > 0:
            self._ratios.update(seconds["plain"] / seconds["speculative"])

    def _seconds(self, decoder: SpeculativeDecoder, module: Inference, batch: RequestBatch) -> float:
        decode = partial(
            decoder,
            **batch.decoder_inputs,
            num_beams=module.num_beams,
            item_filter=module.item_filter(batch),
            seeds=request_seeds(module.seed, batch.rows),
        )
        if module.device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            decode()
            last.record()
            last.synchronize()
            return first.elapsed_time(last) / 1000
        start = time.perf_counter()
        decode()
        return time.perf_counter() - start

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the median."""
        ratios = torch.as_tensor(self._ratios.compute())
        if ratios.numel():
            pl_module.log("test/speedup", ratios.median(), sync_dist=True)
