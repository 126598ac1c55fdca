"""Data sets, their splits, examples, batches and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.datamodule import RecommendationData
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources import AtSpeedLayout, EmbeddedCatalog, InteractionSource, Prepared

__all__ = [
    "AtSpeedLayout",
    "Dataset",
    "EmbeddedCatalog",
    "InteractionSource",
    "ItemSequences",
    "Prepared",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
]
