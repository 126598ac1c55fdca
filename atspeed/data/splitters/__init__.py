"""Splits of interactions, one idea a file."""

from atspeed.data.splitters.given_split import GivenSplit
from atspeed.data.splitters.global_time import GlobalTime
from atspeed.data.splitters.leave_one_out import LeaveOneOut, leave_one_out
from atspeed.data.splitters.splitter import Splitter

__all__ = ["GivenSplit", "GlobalTime", "LeaveOneOut", "Splitter", "leave_one_out"]
