"""Models with linear layers in int8, for inference on a CPU."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from atspeed.catalog.vocabulary import Vocabulary
from atspeed.models.checkpoint import Checkpoint
from atspeed.models.lora import LoRA
from atspeed.models.packing import plain_linears
from atspeed.models.sources import ModelSource, cast

log = logging.getLogger(__name__)

LARGEST = 127
"""Largest magnitude in int8. -128 is not used, so that zero stays zero without an offset."""


class Int8(ModelSource):
    """Another source's model with its linear layers in int8 and all else in bfloat16, for inference on a CPU.

    Half of the memory of bfloat16, and with AMX faster products at any number of tokens (figures, also of the answers:
    docs/notes.md). A processor that does not multiply int8 gets a model in bfloat16, with a log line. Not only weights,
    but also the inputs of each layer are rounded to int8; the output embeddings are not.

    Args:
        base: source of the model.
    """

    def __init__(self, base: ModelSource) -> None:
        if isinstance(base, LoRA):
            raise ValueError("int8.base is a LoRA, which is trained: name the model that the fine-tuning exported")
        self.base = base

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Build the base and quantise it; see :meth:`ModelSource.build`.

        Raises:
            ValueError: if the base has no linear layers, or DeepSpeed shards it.
        """
        if is_deepspeed_zero3_enabled():
            raise ValueError("an Int8 model cannot be built in the shards of DeepSpeed ZeRO-3: use int8.base itself")
        model = self.base.build(vocabulary, run_dir)
        if has_int8_products():
            quantise_linears(model)
        else:
            log.info("weights are in bfloat16 instead of int8: this processor has no int8 products in oneDNN")
        cast(model.parameters(), "bfloat16")
        return model

    def origin(self, run_dir: Path) -> Checkpoint | None:
        """Return the base's folder; see :meth:`ModelSource.origin`."""
        return self.base.origin(run_dir)

    def fingerprint(self, run_dir: Path) -> str:
        """Return the base's fingerprint, marked; see :meth:`ModelSource.fingerprint`."""
        return json.dumps(["int8", self.base.fingerprint(run_dir)])


class Int8Linear(nn.Module):
    """A ``Linear`` whose weight is int8 in oneDNN's layout, with a scale per output; a token's inputs become int8 too.

    In integers a product is exact, so each output is off by the rounding of its weights and its inputs alone, and does
    not depend on the other tokens of a call.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, self.scale = quantise(linear.weight.detach())
        self.scale = self.scale.squeeze(1)
        self.zero_point = torch.zeros(len(weight), dtype=torch.long)
        # A parameter, so that it counts as one.
        self.weight = nn.Parameter(torch.ops.onednn.qlinear_prepack(weight, None), requires_grad=False)
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values @ weight.T + bias`` in the dtype of ``values``.

        Raises:
            RuntimeError: if the values need a gradient.
        """
        if values.requires_grad:
            raise RuntimeError("an Int8 model cannot be trained: train its base")
        rows, scale = quantise(values.flatten(0, -2))
        exact = (1.0, 0)  # scale and zero point
        products = torch.ops.onednn.qlinear_pointwise(
            rows, *exact, self.weight, self.scale, self.zero_point, None, *exact, torch.float32, "none", [], ""
        )
        products *= scale
        if self.bias is not None:
            products += self.bias
        return products.to(values.dtype).unflatten(0, values.shape[:-1])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Of Module.to and the like: the layout is a CPU's, and scales stay in float32.
        if fn(torch.empty(0)).device.type != "cpu":
            raise ValueError("an Int8 model runs on a CPU only: use int8.base itself, or device cpu")
        return self


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as int8 ``[R, C]`` and their float32 scales ``[R, 1]``; a row is about their product."""
    scale = rows.abs().amax(1, keepdim=True).float().clamp(min=1e-30) / LARGEST
    return (rows / scale).round_().to(torch.int8), scale


def quantise_linears(model: PreTrainedModel) -> None:
    """Replace the ``Linear`` modules of a model by :class:`Int8Linear`, all but the output embeddings, in place.

    Weights are freed one by one, as by :func:`atspeed.models.pack_linears`.

    Raises:
        ValueError: if there are none.
    """
    head: Any = model.get_output_embeddings()
    found = [(parent, name) for parent, name in plain_linears(model) if getattr(parent, name) is not head]
    for parent, name in found:
        setattr(parent, name, Int8Linear(getattr(parent, name)))
    if not found:
        raise ValueError(f"int8.base is a {model.config.model_type!r} model, whose layers are no torch.nn.Linear")


def dtype_name(model: PreTrainedModel) -> str:
    """Return the dtype of a model's linear layers as text: ``float32``, ``int8``, ``int8_weights`` and so on."""
    for module in model.modules():
        if type(module) is Int8Linear:
            return "int8"
        if type(module) is nn.Linear and type(module.weight) is not nn.Parameter:  # by torchao: weights only
            stored: Any = module.weight
            return f"{str(stored.qdata.dtype).removeprefix('torch.')}_weights"
    return str(model.dtype).removeprefix("torch.")


def has_int8_products() -> bool:
    """Return whether this torch and this processor multiply int8 fast and without overflow."""
    operators = torch.ops.onednn
    return (
        torch.backends.mkldnn.is_available()
        and torch.cpu._is_vnni_supported()
        and all(hasattr(operators, name) for name in ("qlinear_prepack", "qlinear_pointwise"))
    )
