"""The catalog: items, their semantic IDs, how these are made, and the vocabularies that write them."""

from atspeed.catalog.collisions import CollisionRule, ExtraLevel, Kept, NextNearest
from atspeed.catalog.compact_vocabulary import CompactVocabulary
from atspeed.catalog.item_catalog import ItemCatalog, ItemIndices
from atspeed.catalog.residual_kmeans import ResidualKMeans
from atspeed.catalog.spelling import Spelling
from atspeed.catalog.tokenizer_vocabulary import TokenizerVocabulary
from atspeed.catalog.vocabulary import Vocabulary

__all__ = [
    "CollisionRule",
    "CompactVocabulary",
    "ExtraLevel",
    "ItemCatalog",
    "ItemIndices",
    "Kept",
    "NextNearest",
    "ResidualKMeans",
    "Spelling",
    "TokenizerVocabulary",
    "Vocabulary",
]
