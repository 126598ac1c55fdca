"""Data sources, one format a file."""

from atspeed.data.sources.atspeed_layout import AtSpeedLayout
from atspeed.data.sources.embedded_catalog import EmbeddedCatalog
from atspeed.data.sources.interaction_source import InteractionSource

__all__ = ["AtSpeedLayout", "EmbeddedCatalog", "InteractionSource"]
