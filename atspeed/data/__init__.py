"""Interactions, their splits, batches and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.datamodule import RecommendationData
from atspeed.data.interactions import Interactions
from atspeed.data.sources import AtSpeedLayout, EmbeddedCatalog, InteractionSource

__all__ = [
    "AtSpeedLayout",
    "EmbeddedCatalog",
    "InteractionSource",
    "Interactions",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
]
