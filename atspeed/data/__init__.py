"""Data sets, their splits, examples, batches and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.datamodule import RecommendationData
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources import (
    AtSpeedLayout,
    EmbeddedCatalog,
    GridLayout,
    InteractionSource,
    LCRecLayout,
    MiniOneRecLayout,
    OpenOneRecLayout,
)
from atspeed.data.writers import AtSpeedWriter, DatasetWriter, LCRecWriter, MiniOneRecWriter

__all__ = [
    "AtSpeedLayout",
    "AtSpeedWriter",
    "Dataset",
    "DatasetWriter",
    "EmbeddedCatalog",
    "GridLayout",
    "InteractionSource",
    "ItemSequences",
    "LCRecLayout",
    "LCRecWriter",
    "MiniOneRecLayout",
    "MiniOneRecWriter",
    "OpenOneRecLayout",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
]
