"""Data sets, their splits, examples, batches and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.datamodule import RecommendationData
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources import (
    AmazonReviews,
    AtSpeedLayout,
    BundledItems,
    EmbeddedCatalog,
    GridLayout,
    Interactions,
    InteractionSource,
    LCRecLayout,
    MiniOneRecLayout,
    OpenOneRecLayout,
    Prepared,
    RecBoleLayout,
)
from atspeed.data.splitters import GivenSplit, GlobalTime, LeaveOneOut, Splitter
from atspeed.data.writers import AtSpeedWriter, DatasetWriter, LCRecWriter, MiniOneRecWriter, PreparedWriter

__all__ = [
    "AmazonReviews",
    "AtSpeedLayout",
    "AtSpeedWriter",
    "BundledItems",
    "Dataset",
    "DatasetWriter",
    "EmbeddedCatalog",
    "GivenSplit",
    "GlobalTime",
    "GridLayout",
    "InteractionSource",
    "Interactions",
    "ItemSequences",
    "LCRecLayout",
    "LCRecWriter",
    "LeaveOneOut",
    "MiniOneRecLayout",
    "MiniOneRecWriter",
    "OpenOneRecLayout",
    "Prepared",
    "PreparedWriter",
    "RecBoleLayout",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
    "Splitter",
]
