"""DeepSpeed's ZeRO: how a Trainer uses it, and what it rules out."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DeepSpeedStrategy


def zero_stage(trainer: pl.Trainer) -> int:
    """Return the stage of ZeRO that the Trainer's strategy uses; 0: none, or no DeepSpeed."""
    strategy: Any = trainer.strategy
    config: Any = strategy.config if isinstance(strategy, DeepSpeedStrategy) else {}
    return config.get("zero_optimization", {}).get("stage", 0)


def require_unsharded_models(trainer: pl.Trainer, task: str) -> None:
    """Raise ``ValueError`` under ZeRO-3, which shards the models among processes that need not stay in step at a task.

    Args:
        trainer: the Trainer.
        task: what the models are wanted for, in words.
    """
    if zero_stage(trainer) == 3:
        raise ValueError(
            f"trainer.strategy is DeepSpeed with ZeRO stage 3, which cannot be used for {task}: its processes "
            "would wait for each other's shards at different forward passes. Set trainer.strategy to ddp, auto or "
            "deepspeed_stage_2, where each process holds the complete models"
        )


def configure_deepspeed(trainer: pl.Trainer) -> None:
    """Tell DeepSpeed, if the Trainer uses it, what it cannot find out itself."""
    strategy: Any = trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy):
        strategy.exclude_frozen_parameters = True
        config: Any = strategy.config
        # used for a log line only; Lightning looks for it in a batch sampler, but our samplers give complete batches
        config.setdefault("train_micro_batch_size_per_gpu", 1)
