"""Timing a model's forward pass by itself, without launch gaps on a GPU: the floor under what a search can take."""

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from atspeed.decoding.cost.cost_model import CallShape
from atspeed.decoding.cuda_graphs import captured_graph
from atspeed.decoding.forward import cache_argument

REPEATS = {"cuda": 10, "cpu": 2}


class BareCalls:
    """Calls a model with shapes and nothing around it, and returns their seconds, the fewest of a few calls.

    The inputs are what a search gives: tokens, positions, an additive 4-D mask and a cache with keys of the context. On
    a GPU a call is captured as a CUDA graph and timed by events while it replays, so that it takes what its kernels
    take; a model whose forward pass cannot be captured is refused by CUDA. A shape is timed once.

    Args:
        model: the model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._seconds: dict[CallShape, float] = {}

    def __call__(self, shape: CallShape) -> float:
        """Return the seconds of one call."""
        if shape not in self._seconds:
            call, device = BareCall(self.model, shape), self.model.device
            seconds = (_seconds_of_replays if device.type == "cuda" else _seconds_of_calls)(call, REPEATS[device.type])
            self._seconds[shape] = min(seconds)
        return self._seconds[shape]


class BareCall:
    """One forward pass, ready to be repeated: the same tokens after the same context each time.

    Args:
        model: the model.
        shape: the size of the call. Where there is no context, the tokens are a prompt and nodes behind it, and only
            the last one gets logits: how many are nodes, a shape does not say.
    """

    def __init__(self, model: PreTrainedModel, shape: CallShape) -> None:
        count, batch_size, context = shape
        device, config = model.device, model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or context + count
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(config.vocab_size, (batch_size, count), generator=generator).to(device)
        positions = torch.arange(context, context + count, device=device).clamp(max=longest - 1)
        self._model = model
        self._cache = _filled_cache(model, batch_size, context)
        self._context = [(layer.keys, layer.values) for layer in self._cache.layers]
        self._inputs = {
            "input_ids": tokens,
            "position_ids": positions.expand(batch_size, -1),
            "attention_mask": torch.zeros(batch_size, 1, count, context + count, dtype=model.dtype, device=device),
            "use_cache": True,
            "logits_to_keep": count if context else 1,
            cache_argument(type(model).forward): self._cache,
        }

    @torch.inference_mode()
    def __call__(self) -> None:
        """Run the model; on a GPU its kernels may still be running afterwards."""
        for layer, (keys, values) in zip(self._cache.layers, self._context, strict=True):
            layer.keys, layer.values = keys, values
        self._model(**self._inputs)


@torch.inference_mode()
def _filled_cache(model: PreTrainedModel, batch_size: int, context: int) -> Any:
    """Return a cache of ``context`` slots, whose keys and values are those of one token, repeated."""
    cache = DynamicCache()
    token = torch.zeros(batch_size, 1, dtype=torch.long, device=model.device)
    mask = torch.zeros(batch_size, 1, 1, 1, dtype=model.dtype, device=model.device)
    inputs = {"position_ids": token, "attention_mask": mask, cache_argument(type(model).forward): cache}
    model(input_ids=token, use_cache=True, **inputs)
    layers: Any = cache.layers
    for layer in layers:  # [B, heads, 1, head size] → [B, heads, S, head size]
        layer.keys, layer.values = (part.repeat(1, 1, context, 1) for part in (layer.keys, layer.values))
    return cache


def _seconds_of_calls(call: Callable[[], None], repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _seconds_of_replays(call: Callable[[], None], repeats: int) -> list[float]:
    """Capture a call as a CUDA graph, and return the seconds of its replays by events."""
    graph = captured_graph(call)
    graph.replay()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) / 1000 for first, last in pairwise(events)]
