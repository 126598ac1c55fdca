"""The LightningModules."""

from atspeed.modules.alignment import Alignment
from atspeed.modules.fine_tuning import FineTuning
from atspeed.modules.inference import Inference
from atspeed.modules.stage import StageModule
from atspeed.modules.target_caching import TargetCaching

__all__ = ["Alignment", "FineTuning", "Inference", "StageModule", "TargetCaching"]
