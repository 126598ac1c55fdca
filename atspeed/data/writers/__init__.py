"""Writers of data sets, one format a file."""

from atspeed.data.writers.atspeed_writer import AtSpeedWriter
from atspeed.data.writers.dataset_writer import DatasetWriter
from atspeed.data.writers.lcrec_writer import LCRecWriter
from atspeed.data.writers.minionerec_writer import MiniOneRecWriter
from atspeed.data.writers.prepared_writer import PreparedWriter

__all__ = ["AtSpeedWriter", "DatasetWriter", "LCRecWriter", "MiniOneRecWriter", "PreparedWriter"]
