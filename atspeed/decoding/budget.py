"""How many tree nodes a target call may hold before it costs noticeably more."""

import statistics
import time
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

PROMPT_LENGTH = 64
LARGEST = 1024
REPEATS = 5
_costs: WeakKeyDictionary[PreTrainedModel, dict[torch.device, dict[int, float]]] = WeakKeyDictionary()


@torch.inference_mode()
def measure_budget(model: PreTrainedModel, extra_cost: float) -> int:
    """Return the largest number of nodes whose call costs at most ``1 + extra_cost`` times a call for one node.

    Calls for 1, 2, 4, … 1024 nodes after a prompt of 64 tokens are timed, each several times and each right after
    another of its size, in turn; once for a model on its device. Their medians decide.
    """
    costs = _costs.setdefault(model, {})
    if model.device not in costs:
        costs[model.device] = _measure(model)
    cost = costs[model.device]
    budget = 1
    for size in sorted(cost):
        if cost[size] > (1 + extra_cost) * cost[1]:
            break
        budget = size
    return budget


def _measure(model: PreTrainedModel) -> dict[int, float]:
    cache = DynamicCache()
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", PROMPT_LENGTH + 1)
    prompt = min(PROMPT_LENGTH, longest - 1)

    def call(size: int, past: int) -> float:
        places = torch.arange(past, past + size, device=model.device).clamp(max=prompt)[None]
        mask = torch.zeros(1, 1, size, past + size, dtype=model.dtype, device=model.device)
        start = time.perf_counter()
        output = model(
            input_ids=torch.zeros_like(places), position_ids=places, attention_mask=mask, past_key_values=cache
        )
        output.logits[0, -1, 0].item()  # waits for the device
        return time.perf_counter() - start

    call(prompt, 0)
    sizes = [1 << power for power in range(LARGEST.bit_length())]
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(REPEATS):
        for size in sizes:
            for _ in range(2):  # the first one brings caches and memory into the state of calls of this size
                elapsed = call(size, prompt)
                cache.crop(-size)
            seconds[size].append(elapsed)
    return {size: statistics.median(values) for size, values in seconds.items()}
