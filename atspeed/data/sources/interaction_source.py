"""What every data source has in common."""

from abc import ABC, abstractmethod

from atspeed.data.dataset import Dataset


class InteractionSource(ABC):
    """Where users, items and semantic IDs come from; a config names a subclass by ``data.source``."""

    @abstractmethod
    def load(self) -> Dataset:
        """Read or generate the data set.

        Raises:
            FileNotFoundError: if a file or folder is missing.
            ValueError: if the content of a file is wrong; the message names the file and the fault.
        """
