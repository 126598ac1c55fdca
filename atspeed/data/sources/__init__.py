"""Data sources, one format a file."""

from atspeed.data.sources.atspeed_layout import AtSpeedLayout
from atspeed.data.sources.embedded_catalog import EmbeddedCatalog
from atspeed.data.sources.grid_layout import GridLayout
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.lcrec_layout import LCRecLayout
from atspeed.data.sources.minionerec_layout import MiniOneRecLayout
from atspeed.data.sources.openonerec_layout import OpenOneRecLayout

__all__ = [
    "AtSpeedLayout",
    "EmbeddedCatalog",
    "GridLayout",
    "InteractionSource",
    "LCRecLayout",
    "MiniOneRecLayout",
    "OpenOneRecLayout",
]
