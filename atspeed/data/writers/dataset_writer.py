"""What every writer of a data set has in common."""

from abc import ABC, abstractmethod
from pathlib import Path

from atspeed.data.dataset import Dataset


class DatasetWriter(ABC):
    """Writes a data set in one format; a command names a subclass by its class name."""

    @abstractmethod
    def write(self, dataset: Dataset, folder: Path) -> None:
        """Write the data set.

        What the format cannot hold is an error or is said in a log line.

        Args:
            dataset: the data set.
            folder: an empty folder. A caller that needs all or nothing gives a temporary one and moves it in place.

        Raises:
            ValueError: if the format cannot hold the data set; the message says why.
        """
