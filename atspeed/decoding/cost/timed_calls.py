"""Timing calls of a model, few enough to be done whenever a model is loaded."""

import copy
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.cost.bare_calls import BareCalls
from atspeed.decoding.cost.cost_model import CallShape, CostModel
from atspeed.decoding.forward import WantedChildren, child_log_probs

CONTEXT = 64
LONG_CONTEXT = 512
SHAPES = (
    CallShape(1, 1, CONTEXT),
    CallShape(1, 1, LONG_CONTEXT),  # two against the same tokens after a short context
    *(CallShape(tokens, 1, CONTEXT) for tokens in (4, 8, 16, 32, 64, 128)),
    CallShape(128, 1, LONG_CONTEXT),
    CallShape(256, 1, CONTEXT),
    CallShape(64, 4),  # a batch of prompts
    CallShape(512, 1, CONTEXT),
)
LARGEST_BUDGET = 1024
_COSTS = "_atspeed_call_costs"  # attribute of a model: device → CostModel
_CAPTURED_COSTS = "_atspeed_captured_call_costs"  # the same


def measure_cost(model: PreTrainedModel, timer: Callable[[CallShape], float] | None = None) -> CostModel:
    """Time calls of a model, 38 in all, and fit a :class:`CostModel` to them.

    Three rounds go through all shapes, so that a slow moment of the machine does not fall on one of them alone; the
    first one warms up. They go down, up and down again: a small call just after a large one, which leaves the
    processor's caches to it without the weights, would take up to half as long again as it does in a search.

    Args:
        model: the model, on its device, packed or not as it will be used.
        timer: shape → seconds of a call; calls of the model by default.
    """
    timer = timer or TimedCalls(model)
    rounds = [[(shape, timer(shape)) for shape in order] for order in (SHAPES[::-1], SHAPES, SHAPES[::-1])]
    return CostModel.fit(rounds[1] + rounds[2])


def measured_cost(model: PreTrainedModel) -> CostModel:
    """Return what calls cost, measured once for a model on its device and kept on the model."""
    costs = getattr(model, _COSTS, {})
    if model.device not in costs:
        keep_cost(model, measure_cost(model))
    return getattr(model, _COSTS)[model.device]


def captured_cost(model: PreTrainedModel) -> CostModel:
    """Return what calls cost that replay as CUDA graphs, measured once for a model on its device and kept on it.

    On a CPU, where none do, that is :func:`measured_cost`.
    """
    if model.device.type != "cuda":
        return measured_cost(model)
    costs = getattr(model, _CAPTURED_COSTS, {})
    if model.device not in costs:
        setattr(model, _CAPTURED_COSTS, {**costs, model.device: measure_cost(model, BareCalls(model))})
    return getattr(model, _CAPTURED_COSTS)[model.device]


def keep_cost(model: PreTrainedModel, cost: CostModel) -> None:
    """Let :func:`measured_cost` return ``cost`` for the model on its device."""
    setattr(model, _COSTS, {**getattr(model, _COSTS, {}), model.device: cost})


def measure_budget(model: PreTrainedModel, extra_cost: float) -> int:
    """Return the largest number of nodes whose call costs at most ``1 + extra_cost`` times a call for one node.

    A power of two up to 1024, after a prompt of 64 tokens, by :func:`measured_cost`.
    """
    cost, budget = measured_cost(model), 1
    most = (1 + extra_cost) * cost.seconds(1, 1, CONTEXT)
    while budget < LARGEST_BUDGET and cost.seconds(2 * budget, 1, CONTEXT) <= most:
        budget *= 2
    return budget


class TimedCalls:
    """Calls a model with shapes, and returns their seconds; a context is filled by one more call and kept.

    Args:
        model: the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or LONG_CONTEXT
        self._last_position = longest - 1
        self._filled: dict[int, DynamicCache] = {}

    @torch.inference_mode()
    def __call__(self, shape: CallShape) -> float:
        """Return the seconds of one call."""
        cache = DynamicCache()
        if shape.context:
            if shape.context not in self._filled:
                self._filled[shape.context] = cache
                self._call(cache, CallShape(shape.context))
            cache = self._filled[shape.context]
            if shape.batch_size > 1:
                cache = copy.deepcopy(cache)
                cache.batch_repeat_interleave(shape.batch_size)
        seconds = self._call(cache, shape)
        cache.crop(-shape.tokens)
        return seconds

    def _call(self, cache: DynamicCache, shape: CallShape) -> float:
        """Run the model on ``cache``, which gets ``shape.tokens`` more slots."""
        model, (count, batch_size, context) = self.model, shape
        positions = torch.arange(context, context + count, device=model.device).clamp(max=self._last_position)
        positions = positions.expand(batch_size, -1)
        tokens = torch.zeros_like(positions)
        mask = torch.ones(batch_size, count, context + count, dtype=torch.bool, device=model.device)
        parents = torch.arange(count, device=model.device).expand(batch_size, -1)
        wanted = WantedChildren(parents, tokens, torch.ones_like(tokens, dtype=torch.bool))
        start = time.perf_counter()
        log_probs = child_log_probs(model, cache, tokens, positions, mask, wanted, count, "vocabulary")
        log_probs[0, -1].item()  # waits for the device
        return time.perf_counter() - start
