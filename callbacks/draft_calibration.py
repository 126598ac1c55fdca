"""Calibration of an aligned draft, for drafters that spend tokens by their price."""

import logging
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from torch import Tensor

from atspeed.callbacks.hugging_face_export import HuggingFaceExport
from atspeed.callbacks.required_module import require_module
from atspeed.checks import require_at_least
from atspeed.data.examples import evenly_spread
from atspeed.decoding import Beams, PrefixScorer
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.drafters.calibration import calibrate
from atspeed.models import Exported
from atspeed.modules import Alignment
from atspeed.modules.zero import zero_stage
from atspeed.recommender.calibration_file import save_calibration

log = logging.getLogger(__name__)


class DraftCalibration(pl.Callback):
    """Writes ``calibration.json`` into the exported draft's folder: what ``PriceAwareDrafter`` goes by.

    It compares the draft's candidates with the target's beams of some validation users; the beams come from the target
    cache, if there is one. It comes after :class:`HuggingFaceExport` in the list of callbacks.

    Args:
        num_users: validation users, evenly spread over the data.
    """

    def __init__(self, num_users: int = 300) -> None:
        require_at_least(1, num_users=num_users)
        self.num_users = num_users

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a module without a draft, and a list of callbacks in which there is nothing to write beside."""
        require_module(self, pl_module, Alignment)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        before = callbacks[: callbacks.index(self)]
        if not any(isinstance(callback, HuggingFaceExport) for callback in before):
            raise ValueError("trainer.callbacks has DraftCalibration without HuggingFaceExport before it: add that one")

    def on_train_end(self, trainer: pl.Trainer, pl_module: Alignment) -> None:  # type: ignore[override]
        """Calibrate, on rank zero."""
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        if zero_stage(trainer) == 3:
            log.warning(
                "DraftCalibration writes nothing: trainer.strategy has ZeRO stage 3, whose shards decoding cannot use. "
                "python -m atspeed tune calibrates the exported draft"
            )
            return
        training = pl_module.model.training
        pl_module.model.eval()
        calibration = calibrate(pl_module.model, pl_module.draft_trie, self._requests(pl_module))
        pl_module.model.train(training)
        file = save_calibration(calibration, Exported(pl_module.stage), pl_module.target_source, pl_module.run_dir)
        log.info("calibrated the %s draft on %d users: %s", pl_module.stage, self.num_users, file)

    def _requests(self, module: Alignment) -> Iterator[tuple[Tensor, Tensor, list[Beams]]]:
        """Yield the draft's prompts, their mask and the target's beams, batch by batch."""
        requests = evenly_spread(module.data.requests("val"), self.num_users)
        for batch in module.data.batches_by_length(requests, module.data.batch_size, module.device):
            if module.target_cache is not None:
                beams = module.cache.read_prefixes("val", batch.rows.tolist(), module.device)
            else:
                scorer = PrefixScorer(module.target, module.trie, batch.prompts, batch.prompt_mask)
                with torch.inference_mode():
                    beams = beams_by_depth(scorer, module.num_beams)
            yield batch.draft_prompts, batch.draft_prompt_mask, beams
