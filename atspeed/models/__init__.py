"""Where causal language models come from and go to."""

from atspeed.models.sources import Checkpoint, Exported, ModelSource, NewModel, export, model_folder

__all__ = ["Checkpoint", "Exported", "ModelSource", "NewModel", "export", "model_folder"]
