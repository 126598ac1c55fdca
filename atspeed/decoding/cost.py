"""How many tree nodes a target call may hold before it costs noticeably more."""

import statistics
import time
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

PROMPT_LENGTH = 64
LARGEST = 1024
REPEATS = 5
_seconds: WeakKeyDictionary[PreTrainedModel, dict[tuple[torch.device, int], float]] = WeakKeyDictionary()


def measure_budget(model: PreTrainedModel, extra_cost: float) -> int:
    """Return the largest number of nodes whose call costs at most ``1 + extra_cost`` times a call for one node.

    Calls for 1, 2, 4, … 1024 nodes after a prompt of 64 tokens are timed, until one costs more; each size once for a
    model on its device.
    """
    budget = 1
    while budget < LARGEST and _cost(model, 2 * budget) <= (1 + extra_cost) * _cost(model, 1):
        budget *= 2
    return budget


def _cost(model: PreTrainedModel, size: int) -> float:
    """Return the median seconds of a call for ``size`` nodes."""
    seconds = _seconds.setdefault(model, {})
    if (model.device, size) not in seconds:
        seconds[model.device, size] = _measure(model, size)
    return seconds[model.device, size]


@torch.inference_mode()
def _measure(model: PreTrainedModel, size: int) -> float:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", PROMPT_LENGTH + 1)
    prompt = min(PROMPT_LENGTH, longest - 1)
    cache = DynamicCache()

    def call(count: int, past: int) -> float:
        places = torch.arange(past, past + count, device=model.device).clamp(max=prompt)[None]
        mask = torch.zeros(1, 1, count, past + count, dtype=model.dtype, device=model.device)
        tokens = torch.zeros_like(places)
        start = time.perf_counter()
        output = model(input_ids=tokens, position_ids=places, attention_mask=mask, past_key_values=cache)
        output.logits[0, -1, 0].item()  # waits for the device
        return time.perf_counter() - start

    call(prompt, 0)
    seconds = []
    for _ in range(1 + REPEATS):
        seconds.append(call(size, prompt))
        cache.crop(-size)
    return statistics.median(seconds[1:])  # the first one warms up
