"""Data sets, their splits, examples, batches and loaders."""

from atspeed.data.batches import RequestBatch, SequenceBatch
from atspeed.data.datamodule import RecommendationData
from atspeed.data.dataset import Dataset
from atspeed.data.item_sequences import ItemSequences
from atspeed.data.sources import (
    AmazonReviews,
    AtSpeedLayout,
    EmbeddedCatalog,
    Interactions,
    InteractionSource,
    RecBoleLayout,
)
from atspeed.data.splitters import GivenSplit, GlobalTime, LeaveOneOut, Splitter

__all__ = [
    "AmazonReviews",
    "AtSpeedLayout",
    "Dataset",
    "EmbeddedCatalog",
    "GivenSplit",
    "GlobalTime",
    "InteractionSource",
    "Interactions",
    "ItemSequences",
    "LeaveOneOut",
    "RecBoleLayout",
    "RecommendationData",
    "RequestBatch",
    "SequenceBatch",
    "Splitter",
]
