"""Export of the trained model at the end of a fit."""

import logging
from typing import Any

import lightning.pytorch as pl

from atspeed.callbacks.required_module import require_module
from atspeed.models import export, merged_state, model_folder, unsharded_state
from atspeed.modules import StageModule

log = logging.getLogger(__name__)


class HuggingFaceExport(pl.Callback):
    """Writes the module's ``model`` to ``<run folder>/<stage>/model`` in Hugging Face format when a fit has ended.

    The folder has safetensors weights and the catalog's vocabulary as a tokenizer; plain ``transformers`` loads both.
    It appears only when it is complete; a fit that is interrupted or fails does not export. Weights that DeepSpeed has
    sharded are gathered, adapters (``LoRA``) are added to the weights that they adapt.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export, on rank zero; the other ranks contribute their shards."""
        module = require_module(self, pl_module, StageModule)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        model: Any = module.model
        state = unsharded_state(model)
        if trainer.is_global_zero:
            folder = model_folder(module.run_dir, module.stage)
            export(model, module.encoder.vocabulary, folder, merged_state(model, state))
            log.info("exported the %s to %s", module.stage, folder)
