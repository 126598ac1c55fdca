"""Alignment losses."""

from atspeed.losses.alignment_loss import AlignmentLoss, Prefixes, PrefixLoss
from atspeed.losses.atspeed_r import AtSpeedR
from atspeed.losses.atspeed_s import AtSpeedS, DensityRegularization, ReverseKL
from atspeed.losses.coverage import Coverage
from atspeed.losses.distillation import ForwardKL, JensenShannon, SequenceKD
from atspeed.losses.score_regression import ScoreRegression
from atspeed.losses.weighted_sum import WeightedSum

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
    "ScoreRegression",
    "SequenceKD",
    "WeightedSum",
]
