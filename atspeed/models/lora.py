"""Low-rank adapters on a frozen model: how to fine-tune a large target on one GPU."""

import json
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import PreTrainedModel

from atspeed.catalog.vocabulary import Vocabulary
from atspeed.checks import require_at_least
from atspeed.models.sources import ModelSource, cast

ADAPTER = "default"


class LoRA(ModelSource):
    """Another source's model, frozen, with low-rank adapters on its linear layers (arXiv 2106.09685, by PEFT).

    The embeddings of the codes, input and output (one matrix where the model ties them), are trained completely,
    because a pre-trained model has never seen the codes. Exporting adds the adapters to the weights, so that later
    stages load a model like any other.

    Args:
        base: source of the frozen model.
        base_dtype: dtype of the frozen weights: bfloat16 halves their memory and needs a ``trainer.precision`` of
            ``bf16-mixed``. Trained weights are float32, unless DeepSpeed decides otherwise.
        rank: rank of the adapters.
        scale: the adapters' output is multiplied by ``scale / rank`` (PEFT's ``lora_alpha``).
        dropout: dropout on the input of the adapters, from 0 to less than 1.
        target_modules: name endings of the layers to adapt; ``all-linear``: all but the output embeddings.

    Raises:
        ValueError: if a setting is out of range, or the embeddings are among ``target_modules``.
    """

    def __init__(
        self,
        base: ModelSource,
        base_dtype: Literal["float32", "bfloat16"] = "float32",
        rank: int = 16,
        scale: float = 32.0,
        dropout: float = 0.05,
        target_modules: list[str] | Literal["all-linear"] = "all-linear",
    ) -> None:
        require_at_least(1, lora__rank=rank)
        if not 0 <= dropout < 1:
            raise ValueError(f"lora.dropout is {dropout}; expected at least 0 and less than 1")
        self.base = base
        self.base_dtype = base_dtype
        self.rank = rank
        self.scale = scale
        self.dropout = dropout
        self.target_modules = target_modules

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Build the base model and insert the adapters; see :meth:`ModelSource.build`."""
        model = self.base.build(vocabulary, run_dir)
        add_adapters(model, self.rank, self.scale, self.dropout, self.target_modules)
        cast([weight for weight in model.parameters() if not weight.requires_grad], self.base_dtype)
        cast([weight for weight in model.parameters() if weight.requires_grad], "float32")
        return model.eval()

    def fingerprint(self, run_dir: Path) -> str:
        """Return the base's fingerprint and the settings; see :meth:`ModelSource.fingerprint`."""
        settings = [self.base_dtype, self.rank, self.scale, self.dropout, self.target_modules]
        return json.dumps([self.base.fingerprint(run_dir), *settings])


def add_adapters(
    model: PreTrainedModel, rank: int, scale: float, dropout: float, target_modules: list[str] | Literal["all-linear"]
) -> None:
    """Insert adapters into a model and freeze all else but its embeddings, in place; see :class:`LoRA`."""
    from peft import LoraConfig, inject_adapter_in_model  # takes half a second, so it is imported only here
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=target_modules)  # type: ignore[arg-type]
    inject_adapter_in_model(config, model, ADAPTER)  # freezes everything but the adapters
    for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
        if isinstance(embeddings, LoraLayer):
            raise ValueError(
                f"lora.target_modules {target_modules} includes the embeddings, which are trained completely"
            )
        embeddings.requires_grad_(True)


def merged_state(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with each adapter added to the weight that it adapts, which becomes float32.

    The model and the given state are not changed.

    Args:
        model: the model that the state belongs to, with or without adapters.
        state: its complete state, unsharded.
    """
    from peft.tuners.lora import LoraLayer

    merged = dict(state)
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            down, up = (merged.pop(f"{name}.{part}.{ADAPTER}.weight").float() for part in ("lora_A", "lora_B"))
            change = module.scaling[ADAPTER] * (up @ down)
            if getattr(module, "fan_in_fan_out", False):  # GPT-2 stores its weights the other way round
                change = change.T
            merged[f"{name}.weight"] = merged.pop(f"{name}.base_layer.weight").float() + change
            if f"{name}.base_layer.bias" in merged:
                merged[f"{name}.bias"] = merged.pop(f"{name}.base_layer.bias")
    return merged
