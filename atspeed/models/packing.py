"""Faster float32 matrix products on a CPU."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class PackedLinear(nn.Module):
    """A ``Linear`` whose weight is stored in the blocked layout of oneDNN, for inference in float32 on a CPU.

    By default torch computes float32 products with MKL, which leaves the wider vector units unused on CPUs not made
    by Intel. oneDNN uses them, and packing the weight once saves doing it in each call (figures: docs/notes.md). The
    operators are those that ``torch.compile`` uses for frozen weights.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.bias = linear.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, values: Tensor) -> Tensor:
        """Return ``values @ weight.T + bias``."""
        return torch.ops.mkldnn._linear_pointwise(values, self._weight, self.bias, "none", [], "")


def pack_linears(model: PreTrainedModel) -> PreTrainedModel:
    """Replace the ``Linear`` modules of a float32 model on a CPU by packed ones, in place.

    Other models are returned unchanged. The results differ only by float32 rounding. A packed model can no longer be
    trained, saved or moved.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return model
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
    return model
