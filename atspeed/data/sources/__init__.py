"""Data sources, one format a file."""

from atspeed.data.sources.atspeed_layout import AtSpeedLayout
from atspeed.data.sources.embedded_catalog import EmbeddedCatalog
from atspeed.data.sources.interaction_source import InteractionSource
from atspeed.data.sources.prepared import Prepared

__all__ = ["AtSpeedLayout", "EmbeddedCatalog", "InteractionSource", "Prepared"]
