"""Writers of data sets, one format a file."""

from atspeed.data.writers.dataset_writer import DatasetWriter
from atspeed.data.writers.prepared_writer import PreparedWriter

__all__ = ["DatasetWriter", "PreparedWriter"]
