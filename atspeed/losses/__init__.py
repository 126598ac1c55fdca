"""Alignment losses."""

from atspeed.losses.base import AlignmentLoss, Prefixes, PrefixLoss
from atspeed.losses.composition import WeightedSum
from atspeed.losses.coverage import Coverage
from atspeed.losses.distillation import ForwardKL, JensenShannon, SequenceKD
from atspeed.losses.relaxed import AtSpeedR
from atspeed.losses.strict import AtSpeedS, DensityRegularization, ReverseKL

__all__ = [
    "AlignmentLoss",
    "AtSpeedR",
    "AtSpeedS",
    "Coverage",
    "DensityRegularization",
    "ForwardKL",
    "JensenShannon",
    "PrefixLoss",
    "Prefixes",
    "ReverseKL",
    "SequenceKD",
    "WeightedSum",
]
