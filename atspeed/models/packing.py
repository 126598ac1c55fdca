"""Faster matrix products on a CPU, in float32 and bfloat16."""

import logging

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

log = logging.getLogger(__name__)

LAYOUT_TOKENS = 32
"""The number of tokens that oneDNN chooses the layout for; any number of tokens can be multiplied."""
LARGEST_KEPT = 1 << 30
"""Bytes of the largest float32 model whose weights are kept beside the packed ones, for products of a single token."""


class PackedLinear(nn.Module):
    """A ``Linear`` whose weight is stored in the blocked layout of oneDNN, for inference on a CPU.

    By default torch computes float32 products with MKL, which leaves the wider vector units unused on CPUs not made
    by Intel. oneDNN uses them, and packing the weight once saves doing it in each call, in float32 as in bfloat16
    (figures: docs/notes.md). The operators are those that ``torch.compile`` uses for frozen weights. A single float32
    token, which reads each weight once, is faster by MKL.

    Args:
        linear: the module to replace.
        keep: keep its weight too, for products of a single token.
    """

    def __init__(self, linear: nn.Linear, keep: bool = False) -> None:
        super().__init__()
        self.bias = linear.bias
        self._kept = linear.weight.detach() if keep else None
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), LAYOUT_TOKENS)

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values @ weight.T + bias``."""
        if self._kept is not None and values.numel() == values.shape[-1]:
            return nn.functional.linear(values, self._kept, self.bias)
        return torch.ops.mkldnn._linear_pointwise(values, self._weight, self.bias, "none", [], "")


def pack_linears(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the ``Linear`` modules of a float32 or bfloat16 model on a CPU by packed ones, in place.

    Other models are returned unchanged, and so are those whose dtype oneDNN does not support on this processor, with a
    log line. The results differ only by rounding. A packed model can no longer be trained, saved or moved. Weights are
    packed and freed one by one, so the peak of memory is that of the model and its largest weight; only those of a
    float32 model of at most :data:`LARGEST_KEPT` bytes stay, because a single token is faster with them.
    """
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        return model
    if not has_packed_products(model.dtype):
        log.info("weights are not packed: oneDNN has no %s products on this processor", model.dtype)
        return model
    keep = model.dtype == torch.float32 and model.num_parameters() * model.dtype.itemsize <= LARGEST_KEPT
    for parent, name in plain_linears(model):
        setattr(parent, name, PackedLinear(getattr(parent, name), keep))
    return model


def plain_linears(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the ``Linear`` modules whose weights are plain tensors, each by its parent and its name there.

    Those that torchao has quantised are not. The modules themselves would keep each original weight until the end.
    """
    return [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and type(child.weight) is nn.Parameter
    ]


def is_packed(model: nn.Module) -> bool:
    """Return whether :func:`pack_linears` has packed the model."""
    return any(type(module) is PackedLinear for module in model.modules())


def has_packed_products(dtype: torch.dtype) -> bool:
    """Return whether this torch and this processor multiply packed weights of a dtype, float32 or bfloat16."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
