"""How far back the layers of a model see."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

SLIDING = "sliding_attention"  # what transformers calls layers with a window in ``config.layer_types``


class SlidingWindow:
    """A model's sliding attention window, and the positions of its cache slots, for a batch of requests.

    The index of a slot says nothing of its position: the nodes of a tree come in any order. With a window of 4 tokens,
    a prompt of 4 and node 7, a child of 3, which is a child of 1 (``x``: is seen)::

        slot             prompt      2  1  7  3
        position         0  1  2  3  4  4  6  5
        node 7, full     x  x  x  x  .  x  x  x
        node 7, window   .  .  .  x  .  x  x  x

    Whatever has a token's own position is still seen, so no softmax is over nothing.

    Args:
        size: how many tokens a layer sees, the new one included.
        layer_types: the types of the model's layers if only those of type ``sliding_attention`` have the window; such
            a model takes a mapping from layer type to mask. Empty if all layers have it.
    """

    def __init__(self, size: int, layer_types: Iterable[str] = ()) -> None:
        self.size = size
        self.layer_types = frozenset(layer_types)
        self._positions: Tensor | None = None  # of all slots, [B, S], int64

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self | None:
        """Return a model's window, before any slot is used; None if no layer has one.

        The config is what transformers makes a model's masks of, in ``masking_utils.create_masks_for_generate`` by the
        same rule; a model with a rule of its own does not pass the probe.
        """
        config = model.config.get_text_config()
        size = getattr(config, "sliding_window", None)
        is_active = getattr(config, "use_sliding_window", True)  # may stand in the config of a model without any
        layer_types = set(getattr(config, "layer_types", None) or ([SLIDING] if is_active else []))
        if not size or SLIDING not in layer_types:
            return None
        return cls(size, layer_types if len(layer_types) > 1 else ())

    def limit(self, bias: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        """Take what is too far back out of a mask, and keep the positions of the new slots.

        Args:
            bias: what is added to attention scores, 0 or the smallest number, ``[B, 1, Q, S + Q]``.
            positions: of the new tokens, ``[B, Q]``, int64.

        Returns:
            the mask of all layers, ``[B, 1, Q, S + Q]``, or those of each type of layer.
        """
        self._positions = positions if self._positions is None else torch.cat([self._positions, positions], dim=1)
        if bias.shape[3] <= self.size:  # a position is smaller than the number of slots
            return bias
        too_far = self._positions[:, None, None] <= (positions - self.size)[:, None, :, None]
        windowed = bias.masked_fill(too_far, torch.finfo(bias.dtype).min)
        return {kind: windowed if kind == SLIDING else bias for kind in self.layer_types} or windowed

    def keep(self, rows: Tensor) -> None:
        """Drop all requests but those at ``rows`` (int64)."""
        if self._positions is not None:
            self._positions = self._positions[rows]
