"""Export of the trained model at the end of a fit."""

import logging
from typing import Any

import lightning.pytorch as pl

from atspeed.models import export, model_folder
from atspeed.modules import StageModule

log = logging.getLogger(__name__)


class HuggingFaceExport(pl.Callback):
    """Writes the module's ``model`` to ``<run folder>/<stage>/model`` in Hugging Face format when a fit has ended.

    The folder has safetensors weights and the catalog's vocabulary as a tokenizer; plain ``transformers`` loads both.
    It appears only when it is complete; a fit that is interrupted or fails does not export.
    """

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export; on rank zero."""
        if not isinstance(pl_module, StageModule):
            raise TypeError(f"HuggingFaceExport needs a StageModule, not {type(pl_module).__name__}")
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = model_folder(pl_module.run_dir, pl_module.stage)
            model: Any = pl_module.model
            export(model, pl_module.data.catalog.vocabulary, folder)
            log.info("exported the %s to %s", pl_module.stage, folder)
