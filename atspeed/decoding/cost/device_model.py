"""Predicted seconds of a call on a device that is described by its specification; nothing here is measured."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import PreTrainedModel

from atspeed.decoding.cost.cost_model import CallShape

BYTES_PER_WEIGHT = 2  # bfloat16
LAUNCHES_PER_LAYER = 12  # norms, products, rotary positions, cache, attention, activation, residuals
LAUNCHES_PER_CALL = 10  # embedding, mask, last norm, head, log-softmax, children


@dataclass(frozen=True)
class ModelSize:
    """What a call reads and computes.

    Attributes:
        weights: parameters that take part in every call; those of an embedding that is only looked up do not.
        layers: number of layers.
        bytes: of these weights as they are stored, with the scales of quantised ones.
    """

    weights: int
    layers: int
    bytes: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Return the size of a model whose weights are not packed, which hides them."""
        config = model.config.get_text_config()
        embedding: Any = model.get_input_embeddings()
        head: Any = model.get_output_embeddings()
        looked_up = () if head.weight is embedding.weight else (embedding.weight,)
        return cls(
            model.num_parameters() - sum(weight.numel() for weight in looked_up),
            config.num_hidden_layers,
            sum(map(stored_bytes, model.parameters())) - sum(map(stored_bytes, looked_up)),
        )


def stored_bytes(weight: Tensor) -> int:
    """Return the bytes of a weight; of one that is made up of others, such as integers and scales, those of them."""
    if is_traceable_wrapper_subclass(weight):
        return sum(stored_bytes(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])
    return weight.nbytes


@dataclass(frozen=True)
class DeviceModel:
    """A device in three numbers, for weights and products in bfloat16.

    A call costs the larger of one read of the weights and its arithmetic (two operations per weight and token), plus
    its kernel launches. Attention, the key-value cache, and all that happens between calls are left out.

    Attributes:
        bandwidth: bytes per second from memory.
        operations: dense bfloat16 operations per second.
        launch_seconds: per kernel.
    """

    bandwidth: float
    operations: float
    launch_seconds: float = 4e-6  # typical of CUDA; no specification has it. Near 0 where calls replay as CUDA graphs

    def predicted_seconds(self, size: ModelSize, shapes: Iterable[CallShape]) -> float:
        """Return the predicted seconds of calls of a model."""
        read = BYTES_PER_WEIGHT * size.weights / self.bandwidth
        per_token = 2 * size.weights / self.operations
        launches = (LAUNCHES_PER_LAYER * size.layers + LAUNCHES_PER_CALL) * self.launch_seconds
        return sum(max(read, per_token * shape.total_tokens) + launches for shape in shapes)


# Peak values of NVIDIA's data sheets; where a sheet gives operations with sparsity, half of them.
GPUS: dict[str, DeviceModel] = {
    "RTX A5000": DeviceModel(768e9, 111.1e12),  # RTX A5000 data sheet: 768 GB/s, 222.2 TFLOPS with sparsity
    "RTX 4090": DeviceModel(1008e9, 165.2e12),  # Ada architecture white paper: 1008 GB/s, 165.2 TFLOPS
    "A100": DeviceModel(2039e9, 312e12),  # A100 80GB SXM data sheet: 2,039 GB/s, 312 TFLOPS
    "H100": DeviceModel(3350e9, 989.4e12),  # H100 SXM data sheet: 3.35 TB/s, 1,979 TFLOPS with sparsity
}
