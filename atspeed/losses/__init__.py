"""Alignment losses."""

from atspeed.losses.base import AlignmentLoss
from atspeed.losses.strict import AtSpeedS

__all__ = ["AlignmentLoss", "AtSpeedS"]
