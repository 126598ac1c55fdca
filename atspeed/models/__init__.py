"""Building, loading, sharding and exporting causal language models."""

from atspeed.models.checkpoint import Checkpoint, Exported
from atspeed.models.growth import Grown
from atspeed.models.int8 import Int8, dtype_name
from atspeed.models.lora import LoRA, merged_state
from atspeed.models.packing import is_packed, pack_linears
from atspeed.models.sharding import loading_into_shards, unsharded_shape, unsharded_state
from atspeed.models.sources import ModelSource, NewModel, cast, export, model_folder
from atspeed.models.weight_only import WeightOnly

__all__ = [
    "Checkpoint",
    "Exported",
    "Grown",
    "Int8",
    "LoRA",
    "ModelSource",
    "NewModel",
    "WeightOnly",
    "cast",
    "dtype_name",
    "export",
    "is_packed",
    "loading_into_shards",
    "merged_state",
    "model_folder",
    "pack_linears",
    "unsharded_shape",
    "unsharded_state",
]
