"""The LightningModules."""

from atspeed.modules.alignment import Alignment
from atspeed.modules.base import StageModule
from atspeed.modules.caching import TargetCaching
from atspeed.modules.fine_tuning import FineTuning
from atspeed.modules.recommender import Recommender
from atspeed.modules.sequences import SequenceShares

__all__ = ["Alignment", "FineTuning", "Recommender", "SequenceShares", "StageModule", "TargetCaching"]
