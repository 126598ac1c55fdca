"""Writers of data sets, one format a file."""

from atspeed.data.writers.dataset_writer import DatasetWriter

__all__ = ["DatasetWriter"]
