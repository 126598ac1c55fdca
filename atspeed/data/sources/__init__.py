"""Data sources, one format a file."""

from atspeed.data.sources.amazon_reviews import AmazonReviews
from atspeed.data.sources.atspeed_layout import AtSpeedLayout
from atspeed.data.sources.bundled_items import BundledItems
from atspeed.data.sources.embedded_catalog import EmbeddedCatalog
from atspeed.data.sources.grid_layout import GridLayout
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.lcrec_layout import LCRecLayout
from atspeed.data.sources.minionerec_layout import MiniOneRecLayout
from atspeed.data.sources.openonerec_layout import OpenOneRecLayout
from atspeed.data.sources.prepared import Prepared
from atspeed.data.sources.raw_interactions import Interactions
from atspeed.data.sources.recbole_layout import RecBoleLayout

__all__ = [
    "AmazonReviews",
    "AtSpeedLayout",
    "BundledItems",
    "EmbeddedCatalog",
    "GridLayout",
    "InteractionSource",
    "Interactions",
    "LCRecLayout",
    "MiniOneRecLayout",
    "OpenOneRecLayout",
    "Prepared",
    "RecBoleLayout",
]
