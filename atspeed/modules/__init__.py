"""The LightningModules."""

from atspeed.modules.alignment import Alignment
from atspeed.modules.base import StageModule
from atspeed.modules.fine_tuning import FineTuning
from atspeed.modules.recommender import Recommender

__all__ = ["Alignment", "FineTuning", "Recommender", "StageModule"]
