"""Optimiser and learning-rate schedule of every training module."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from atspeed.models import unsharded_shape


def cosine_adamw(
    module: pl.LightningModule, network: nn.Module, learning_rate: float, weight_decay: float, warmup_steps: int
) -> dict[str, Any]:
    """Return AdamW on a network, with linear warm-up and a cosine to zero over the Trainer's planned steps.

    Args:
        module: gives the Trainer.
        network: its trainable parameters are optimised.
        learning_rate: peak of the schedule.
        weight_decay: applies to matrices only, not to norms and biases.
        warmup_steps: optimiser steps of warm-up.

    Returns:
        what Lightning's ``configure_optimizers`` returns.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [p for p in parameters if len(unsharded_shape(p)) >= 2]
    others = [p for p in parameters if len(unsharded_shape(p)) < 2]
    groups = [
        {"params": members, "weight_decay": decay}
        for members, decay in ((matrices, weight_decay), (others, 0.0))
        if members  # DeepSpeed drops empty groups, which the schedule would still count
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
    num_steps = max(1, int(module.trainer.estimated_stepping_batches))

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
