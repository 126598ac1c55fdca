"""A key-value cache whose slots are allocated once and written in place."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


class SlotLayer(DynamicLayer):
    """One layer's keys and values: new ones are written behind the others, never concatenated with them.

    Args:
        keys: all slots, ``[B, heads, S, head width]``.
        values: the same for the values.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.all_keys, self.all_values = keys, values
        self.is_initialized = True
        self._show(0)

    def reset(self) -> None:
        """Begin at the first slot again; what the slots hold stays, and is seen by nobody until it is written anew."""
        self._show(0)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write new keys and values; returns those of all slots used so far."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        self.all_keys[:, :, begin:end].copy_(key_states)
        self.all_values[:, :, begin:end].copy_(value_states)
        return self._show(end)

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        keys, values = self.all_keys[:, :, :end], self.all_values[:, :, :end]
        self.keys, self.values = keys, values
        return keys, values


def slot_cache(like: Cache) -> Cache:
    """Return a cache with as many slots in each layer as another one has used, all of them free."""
    layers: list[Any] = [
        DynamicLayer()  # of a model whose layer reads another one's keys
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None
        else SlotLayer(torch.zeros_like(layer.keys), torch.zeros_like(layer.values))
        for layer in like.layers
    ]
    return Cache(layers=layers)
