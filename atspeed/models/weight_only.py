"""Models whose linear layers have weights of one byte, on a GPU or a CPU."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from atspeed.catalog.vocabulary import Vocabulary
from atspeed.models.checkpoint import Checkpoint
from atspeed.models.lora import LoRA
from atspeed.models.packing import plain_linears
from atspeed.models.sources import ModelSource, cast

WEIGHT_DTYPES = ("int8", "float8_e4m3fn")


class WeightOnly(ModelSource):
    """Another source's model with the weights of its linear layers in int8 or float8 and all else in bfloat16.

    About half of the memory of bfloat16. Only weights are rounded, once, with a scale per output; products are in
    bfloat16. torchao stores and multiplies them (``pip install 'atspeed[quantization]'``): outside ``torch.compile`` it
    makes a bfloat16 copy of a weight in each call, so that a call takes longer than in bfloat16. The output embeddings
    stay in bfloat16.

    Args:
        base: source of the model.
        dtype: of the weights.

    Raises:
        ValueError: if the base is a LoRA, or the dtype is another one.
    """

    def __init__(self, base: ModelSource, dtype: Literal["int8", "float8_e4m3fn"] = "int8") -> None:
        if isinstance(base, LoRA):
            raise ValueError(
                "weight_only.base is a LoRA, which is trained: name the model that the fine-tuning exported"
            )
        if dtype not in WEIGHT_DTYPES:
            raise ValueError(f"weight_only.dtype is {dtype!r}; expected {' or '.join(WEIGHT_DTYPES)}")
        self.base = base
        self.dtype = dtype

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Build the base and quantise it; see :meth:`ModelSource.build`.

        Raises:
            ImportError: if torchao is not installed.
            ValueError: if the base has no linear layers in floating point, or DeepSpeed shards it.
        """
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "a WeightOnly model cannot be built in the shards of DeepSpeed ZeRO-3: use weight_only.base itself"
            )
        try:
            from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise ImportError(
                "WeightOnly needs torchao; install it with: pip install 'atspeed[quantization]'"
            ) from error
        config = {"int8": Int8WeightOnlyConfig, "float8_e4m3fn": Float8WeightOnlyConfig}[self.dtype]
        model = self.base.build(vocabulary, run_dir)
        cast(model.parameters(), "bfloat16")
        linears = [getattr(*found) for found in plain_linears(model)]
        linears = [linear for linear in linears if linear is not model.get_output_embeddings()]
        if not linears:
            raise ValueError(
                f"weight_only.base is a {model.config.model_type!r} model, whose layers are no torch.nn.Linear"
            )
        linears[0].register_forward_pre_hook(refuse_gradients)
        # The setter would change how all of the process compiles.
        quantize_(model, config(set_inductor_config=False), filter_fn=lambda module, _: module in linears)
        for linear in linears:
            # torchao divides rows of zeros, such as a Grown model's, by their scale: 0 / 0 in float8
            weight: Any = linear.weight
            weight.qdata.view(torch.uint8)[weight.scale.flatten() == 0] = 0
        return model

    def origin(self, run_dir: Path) -> Checkpoint | None:
        """Return the base's folder; see :meth:`ModelSource.origin`."""
        return self.base.origin(run_dir)

    def fingerprint(self, run_dir: Path) -> str:
        """Return the base's fingerprint and the dtype; see :meth:`ModelSource.fingerprint`."""
        return json.dumps(["weight_only", self.dtype, self.base.fingerprint(run_dir)])


def refuse_gradients(_: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Refuse training before the first quantised layer; the others would train around what is frozen.

    Raises:
        RuntimeError: if its input needs a gradient.
    """
    values: Tensor = arguments[0]
    if values.requires_grad:
        raise RuntimeError("a WeightOnly model cannot be trained: train its base")
