"""Where users, items and semantic IDs come from."""

from abc import ABC, abstractmethod

from atspeed.data.interactions import Interactions


class InteractionSource(ABC):
    """Where users, items and semantic IDs come from; a subclass is named by ``data.source`` in a config."""

    @abstractmethod
    def load(self) -> Interactions:
        """Read or make the data set; raise ``FileNotFoundError`` or ``ValueError`` naming what is wrong."""
