"""Models for a catalog, built as the Trainer's strategy wants them."""

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from torch import nn
from transformers import PreTrainedModel

from atspeed.models import ModelSource, cast, loading_into_shards
from atspeed.modules.zero import zero_stage
from atspeed.prompts import PromptEncoder

log = logging.getLogger(__name__)


def build_model(source: ModelSource, encoder: PromptEncoder, trainer: pl.Trainer) -> PreTrainedModel:
    """Build a model for the catalog, in shards under ZeRO-3.

    Args:
        source: where the model comes from.
        encoder: of the model's prompts.
        trainer: its strategy and precision decide on shards and dtype; ``default_root_dir`` is the run folder.

    Returns:
        the model in evaluation mode, in float32 unless ZeRO-3 wants the precision's dtype.

    Raises:
        ValueError: if its prompts are too long for the model.
    """
    strategy: Any = trainer.strategy
    sharded = zero_stage(trainer) == 3
    with loading_into_shards(strategy.config) if sharded else nullcontext():
        model = source.build(encoder.vocabulary, Path(trainer.default_root_dir))
    if sharded:  # DeepSpeed wants one dtype, and has shards in that of the Trainer's precision
        cast(model.parameters(), "bfloat16" if str(trainer.precision).startswith("bf16") else "float32")
    max_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_positions is not None and max_positions < encoder.max_sequence_tokens:
        raise ValueError(
            f"data.max_history is {encoder.max_items}: prompts of up to {encoder.max_sequence_tokens} tokens, "
            f"but the model has max_position_embeddings {max_positions}; shorten the history or enlarge the model"
        )
    return model


def build_frozen_model(source: ModelSource, dtype: str, encoder: PromptEncoder, trainer: pl.Trainer) -> PreTrainedModel:
    """Build a model that is not trained; see :func:`build_model`.

    Args:
        source: where the model comes from.
        dtype: ``float32`` or ``bfloat16``, of the weights; under DeepSpeed the Trainer's precision decides instead.
        encoder: of the model's prompts.
        trainer: see :func:`build_model`.
    """
    model = build_model(source, encoder, trainer).requires_grad_(False)
    if zero_stage(trainer):
        log.info(
            "DeepSpeed: trainer.precision %s decides the dtype of the target, not model.target_dtype", trainer.precision
        )
    else:
        cast(model.parameters(), dtype)
    return model


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Switch a model's dropout off for good, and return it: soft labels need no such noise, which costs acceptance."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # type: ignore[assignment]
    return model
