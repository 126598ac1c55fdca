"""Small models and fits for the tests of modules and callbacks."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from atspeed.data import RecommendationData

TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


def make_trainer(run_dir: Path, **settings: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = any(isinstance(callback, pl.callbacks.ModelCheckpoint) for callback in settings.get("callbacks", []))
    return pl.Trainer(
        **{
            **quiet,
            "default_root_dir": run_dir,
            "accelerator": "cpu",
            "enable_checkpointing": checkpoints,
            "max_epochs": 1,
            "use_distributed_sampler": False,
            **settings,
        }
    )


def fit(
    module: pl.LightningModule, data: RecommendationData, run_dir: Path, ckpt_path: str | None = None, **settings: Any
) -> pl.Trainer:
    """Fit, and return the Trainer."""
    trainer = make_trainer(run_dir, **settings)
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer
