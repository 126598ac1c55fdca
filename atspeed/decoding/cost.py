"""How many tree nodes a target call may hold before it costs noticeably more."""

import statistics
import time

import torch
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.forward import WantedChildren, child_log_probs

PROMPT_LENGTH = 64
LARGEST = 1024
REPEATS = 5
_MEASURED = "_atspeed_call_seconds"  # attribute of a model: (device, nodes) → seconds


def measure_budget(model: PreTrainedModel, extra_cost: float) -> int:
    """Return the largest number of nodes whose call costs at most ``1 + extra_cost`` times a call for one node.

    Calls for 1, 2, 4, … 1024 nodes after a prompt of 64 tokens are timed, until one costs more. What was measured is
    kept on the model, so that each size is timed once for a model on its device.
    """
    budget = 1
    while budget < LARGEST and _seconds(model, 2 * budget) <= (1 + extra_cost) * _seconds(model, 1):
        budget *= 2
    return budget


def _seconds(model: PreTrainedModel, size: int) -> float:
    """Return the median seconds of a call for ``size`` nodes."""
    measured = getattr(model, _MEASURED, None)
    if measured is None:
        measured = {}
        setattr(model, _MEASURED, measured)
    if (model.device, size) not in measured:
        measured[model.device, size] = _measure(model, size)
    return measured[model.device, size]


@torch.inference_mode()
def _measure(model: PreTrainedModel, size: int) -> float:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", PROMPT_LENGTH + 1)
    prompt = min(PROMPT_LENGTH, longest - 1)
    past = DynamicCache()

    def call(count: int, seen: int) -> float:
        positions = torch.arange(seen, seen + count, device=model.device).clamp(max=prompt)[None]
        tokens = torch.zeros_like(positions)
        mask = torch.ones(1, count, seen + count, dtype=torch.bool, device=model.device)
        wanted = WantedChildren(tokens, tokens, torch.ones_like(tokens, dtype=torch.bool))
        start = time.perf_counter()
        log_probs = child_log_probs(model, past, tokens, positions, mask, wanted, count, "vocabulary")
        log_probs[0, -1].item()  # waits for the device
        return time.perf_counter() - start

    call(prompt, 0)
    seconds = []
    for _ in range(1 + REPEATS):
        seconds.append(call(size, prompt))
        past.crop(-size)
    return statistics.median(seconds[1:])  # the first one warms up
