"""The catalog: items, their semantic IDs, and the vocabularies that write them."""

from atspeed.catalog.item_catalog import ItemCatalog, ItemIndices
from atspeed.catalog.vocabulary import Vocabulary

__all__ = ["ItemCatalog", "ItemIndices", "Vocabulary"]
