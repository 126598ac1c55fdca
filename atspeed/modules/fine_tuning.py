"""Fine-tuning a target or a draft on users' histories."""

from typing import Any

import torch
from torch import Tensor

from atspeed.data import SequenceBatch
from atspeed.models import ModelSource
from atspeed.modules.model_building import build_model
from atspeed.modules.optimization import cosine_adamw
from atspeed.modules.stage import StageModule


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per label, a scalar, float32.

    Args:
        logits: ``[B, P, V]``; position ``i`` predicts the label of position ``i + 1``.
        labels: ``[B, P]``, int64, -100 where a position has no label.
    """
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


class FineTuning(StageModule):
    """Next-item training of a causal language model; every code of a history is a label.

    The loss is the mean over a batch's labels. With ``accumulate_grad_batches`` or several processes every batch
    has the same weight, so eight batches of one sequence equal one batch of eight only if all have the same number of
    labels. Batches are limited by tokens (``data.max_tokens``), so their numbers of labels are nearly equal.

    Args:
        stage: folder in the run folder that the model goes to: ``target`` or ``draft``.
        network: the model to train.
        learning_rate: peak of the schedule (linear warm-up, then cosine decay to zero).
        weight_decay: weight decay of AdamW; applies to matrices only.
        warmup_steps: optimiser steps of warm-up.
    """

    def __init__(
        self,
        stage: str,
        network: ModelSource,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.1,
        warmup_steps: int = 50,
    ) -> None:
        super().__init__(stage)
        self.network = network
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps

    def configure_model(self) -> None:
        """Build the model (here and not earlier, so that a strategy may shard it)."""
        if not hasattr(self, "model"):
            self.model = build_model(self.network, self.encoder, self.trainer).train()

    def configure_optimizers(self) -> Any:
        """AdamW with a cosine schedule."""
        return cosine_adamw(self, self.model, self.learning_rate, self.weight_decay, self.warmup_steps)

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = next_token_loss(self.model(input_ids=batch.tokens, use_cache=False).logits, batch.labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Log the loss of the validation items."""
        loss = next_token_loss(self.model(input_ids=batch.tokens, use_cache=False).logits, batch.labels)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.tokens), sync_dist=True)
