"""Where causal language models come from and go to."""

from atspeed.models.packing import pack_linears
from atspeed.models.sources import Checkpoint, Exported, ModelSource, NewModel, export, model_folder

__all__ = ["Checkpoint", "Exported", "ModelSource", "NewModel", "export", "model_folder", "pack_linears"]
