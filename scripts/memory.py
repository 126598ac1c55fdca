"""The GPU memory that training needs, from the number of parameters.

``python scripts/memory.py`` prints the table of docs/memory.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from atspeed.models.lora import add_adapters

Strategy = Literal["ddp", "deepspeed-zero2", "deepspeed-zero3", "deepspeed-zero3-offload"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "deepspeed-zero2", "deepspeed-zero3", "deepspeed-zero3-offload")
NUM_GPUS = (1, 2, 4, 8)
GPU_GB = (24, 40, 80)
USABLE = 0.8
"""Share of a GPU's memory for weights and states; the remainder is for activations, buffers and CUDA."""
LIVE_PARAMETERS = 1_000_000_000
"""``stage3_max_live_parameters`` in the ZeRO-3 overlays: how many parameters are unsharded on a GPU at a time."""
BEAUTY_TOKENS = 862
"""Vocabulary of Amazon Beauty: its codes and three special tokens."""
LLAMA_7B = LlamaConfig(vocab_size=BEAUTY_TOKENS)
LLAMA_68M = LlamaConfig(
    vocab_size=BEAUTY_TOKENS, hidden_size=768, intermediate_size=3072, num_hidden_layers=2, num_attention_heads=12
)


@dataclass(frozen=True)
class Parameters:
    """Numbers of trained and of frozen parameters."""

    trained: int
    frozen: int = 0

    @classmethod
    def of(cls, model: nn.Module) -> "Parameters":
        """Count the parameters of a model, which may be on the meta device."""
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        return cls(trained, sum(weight.numel() for weight in model.parameters()) - trained)


def gpu_bytes(parameters: Parameters, strategy: Strategy, num_gpus: int) -> float:
    """Return the bytes of weights, gradients and optimizer states on each GPU, without activations.

    Under ``ddp`` (or on one GPU) with precision ``bf16-mixed``, a trained parameter takes 18 bytes: float32 weight,
    gradient and AdamW's two moments, and the bfloat16 copy that autocast keeps. A frozen parameter takes 2
    (``target_dtype`` or ``base_dtype`` bfloat16). Under DeepSpeed a trained parameter takes 20: bfloat16 weight and
    gradient, float32 weight and moments and, during a step, gradient. ZeRO-2 shards all of these except the bfloat16
    weight. ZeRO-3 also shards the weights, trained or frozen, and gathers them when they are needed. With offload only
    the gathered weights are on the GPU.
    """
    trained, frozen = parameters.trained, parameters.frozen
    live = 2 * min(LIVE_PARAMETERS, trained + frozen)
    match strategy:
        case "ddp":
            return 18 * trained + 2 * frozen
        case "deepspeed-zero2":
            return 2 * (trained + frozen) + 18 * trained / num_gpus
        case "deepspeed-zero3":
            return (20 * trained + 2 * frozen) / num_gpus + live
        case "deepspeed-zero3-offload":
            return live


def cpu_bytes(parameters: Parameters) -> float:
    """Return the bytes of CPU memory that all processes of ``deepspeed-zero3-offload`` take together."""
    return 20 * parameters.trained + 2 * parameters.frozen


def on_meta(config: LlamaConfig) -> LlamaForCausalLM:
    """Return a model on the meta device, which allocates no memory for its weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def jobs() -> dict[str, Parameters]:
    """Return the parameters of each training job with a LLaMA-7B target and a LLaMA-68M draft on Beauty."""
    target, draft = (Parameters.of(on_meta(config)) for config in (LLAMA_7B, LLAMA_68M))
    lora = on_meta(LLAMA_7B)
    add_adapters(lora, rank=16, scale=32.0, dropout=0.05, target_modules="all-linear")
    return {
        "fine-tuning the target": target,
        "fine-tuning it with LoRA, rank 16": Parameters.of(lora),
        "alignment, target online": Parameters(draft.trained, target.trained),
        "alignment from a target cache": draft,
    }


def table() -> str:
    """Return the table of docs/memory.md."""
    lines = [
        "| job | overlay | " + " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in NUM_GPUS) + " |",
        "| --- | --- | " + " | ".join("--:" for _ in NUM_GPUS) + " |",
    ]
    for job, parameters in jobs().items():
        for strategy in STRATEGIES:
            cells = [_cell(gpu_bytes(parameters, strategy, num_gpus) / 1e9) for num_gpus in NUM_GPUS]
            lines.append(f"| {job} | {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(gigabytes: float) -> str:
    fitting = [f"{size} GB" for size in GPU_GB if gigabytes <= USABLE * size]
    return f"{gigabytes:.1f} ({fitting[0] if fitting else 'none'})"


if __name__ == "__main__":
    print(table(), end="")
