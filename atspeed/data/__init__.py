"""Catalogs, interactions, prompts and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.catalog import ItemCatalog
from atspeed.data.datamodule import RecommendationData
from atspeed.data.embedded import EmbeddedCatalog
from atspeed.data.interactions import AtSpeedLayout, Interactions, InteractionSource
from atspeed.data.prompts import CompactPrompt
from atspeed.data.vocabulary import Vocabulary

__all__ = [
    "AtSpeedLayout",
    "CompactPrompt",
    "EmbeddedCatalog",
    "InteractionSource",
    "Interactions",
    "ItemCatalog",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
    "Vocabulary",
]
