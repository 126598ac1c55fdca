"""What a call of a model costs: measured on the device at hand, predicted for one that is not."""

from atspeed.decoding.cost.bare_calls import BareCalls
from atspeed.decoding.cost.cost_model import CallShape, CostModel
from atspeed.decoding.cost.device_model import GPUS, DeviceModel, ModelSize
from atspeed.decoding.cost.timed_calls import (
    captured_cost,
    keep_cost,
    measure_budget,
    measure_cost,
    measured_cost,
)

__all__ = [
    "GPUS",
    "BareCalls",
    "CallShape",
    "CostModel",
    "DeviceModel",
    "ModelSize",
    "captured_cost",
    "keep_cost",
    "measure_budget",
    "measure_cost",
    "measured_cost",
]
