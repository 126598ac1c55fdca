"""Models of real size that compute the function of a small, trained one."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from atspeed.catalog.vocabulary import Vocabulary
from atspeed.models.checkpoint import Checkpoint
from atspeed.models.sources import ModelSource

MODEL_TYPES = ("llama", "qwen2", "qwen3")
AXES = {
    "embed_tokens": ("tokens", "channels"),
    "lm_head": ("tokens", "channels"),
    "input_layernorm": ("channels",),
    "post_attention_layernorm": ("channels",),
    "norm": ("channels",),
    "q_proj": ("queries", "channels"),
    "k_proj": ("keys", "channels"),
    "v_proj": ("keys", "channels"),
    "o_proj": ("channels", "queries"),
    "q_norm": ("head",),
    "k_norm": ("head",),
    "gate_proj": ("neurons", "channels"),
    "up_proj": ("neurons", "channels"),
    "down_proj": ("channels", "neurons"),
}
"""What the rows and columns of a module's weight stand for; a bias has the rows of its weight."""
RESIDUAL_WRITERS = ("embed_tokens", "o_proj", "down_proj")
"""What they add to the residual stream must be zero in new channels and behind the trained blocks."""


class Grown(ModelSource):
    """Another source's LLaMA, Qwen2 or Qwen3 in a larger shape, with its function kept.

    A trained model of a few million parameters becomes one of the size of LLaMA-7B, without training or downloading
    it: every call costs what the large shape costs, and the answers are those of the small model. In float32 scores
    differ by rounding only. Head size, rotary settings and vocabulary stay.

    The residual stream gets channels that are always zero, each layer gets heads and neurons that nothing reads, and
    behind the trained layers come layers that add nothing (h → H channels, ``·`` trained, ``0`` zero, ``?`` random)::

        embed_tokens   q, k, v, gate, up      o, down     norms: weight · √(h/H), eps · h/H
          h    H-h         h    H-h                       (a mean over H channels, of which H - h are zero)
        [ · ][ 0 ]       [ · ][ ? ]         [ · ][ 0 ]
                         [ ? ][ ? ]         [ 0 ][ 0 ]

    Where the function does not depend on a weight it is random, as in a new model, since some devices multiply zeros
    faster. A configuration has a single eps; Qwen3's norms of queries and keys, whose width stays, use it too. There
    the projections before these norms are multiplied by √(h/H), which cancels, so that ``transformers`` alone loads an
    exported model correctly.

    Args:
        base: source of the trained model.
        hidden_size: channels; the base's where this or another size is left out.
        intermediate_size: neurons of the feed-forward blocks.
        num_hidden_layers: layers.
        num_attention_heads: query heads.
        num_key_value_heads: key heads. Query heads keep their key head; where the larger shape has fewer query heads
            per key head than the base, key heads are repeated.
        dtype: of the weights. The model is built in it at once; only the base is in memory besides.
        seed: seed of the random weights.
    """

    def __init__(
        self,
        base: ModelSource,
        hidden_size: int | None = None,
        intermediate_size: int | None = None,
        num_hidden_layers: int | None = None,
        num_attention_heads: int | None = None,
        num_key_value_heads: int | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        seed: int = 0,
    ) -> None:
        self.base = base
        self.shape = {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "num_key_value_heads": num_key_value_heads,
        }
        self.dtype = dtype
        self.seed = seed

    def build(self, vocabulary: Vocabulary, run_dir: Path) -> PreTrainedModel:
        """Build the base and grow it; see :meth:`ModelSource.build`.

        Raises:
            ValueError: if the base is of another architecture, or cannot be grown to the shape.
        """
        if is_deepspeed_zero3_enabled():
            raise ValueError(
                "a Grown model cannot be built in the shards of DeepSpeed ZeRO-3: use another trainer.strategy, or "
                "its base, which computes the same function"
            )
        base = self.base.build(vocabulary, run_dir)
        return grow(base, {name: size for name, size in self.shape.items() if size is not None}, self.dtype, self.seed)

    def origin(self, run_dir: Path) -> Checkpoint | None:
        """Return the base's folder; see :meth:`ModelSource.origin`."""
        return self.base.origin(run_dir)

    def fingerprint(self, run_dir: Path) -> str:
        """Return the base's fingerprint and the settings; see :meth:`ModelSource.fingerprint`."""
        return json.dumps([self.base.fingerprint(run_dir), self.shape, self.dtype, self.seed])


@torch.no_grad()
def grow(base: PreTrainedModel, shape: dict[str, int], dtype: str, seed: int) -> PreTrainedModel:
    """Return a larger model with the function of ``base``, in evaluation mode; see :class:`Grown`.

    Args:
        base: the trained model, on the CPU.
        shape: the sizes that change, by their name in the configuration.
        dtype: of the new model's weights.
        seed: seed of the random weights.
    """
    trained = dict(base.named_parameters())
    check_growable(base.config.model_type, list(trained))
    small, head_size = base.config, base.model.layers[0].self_attn.head_dim
    config = grown_config(small, shape, head_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    query_heads, num_repeats = head_positions(small, config)
    positions = {
        "tokens": torch.arange(small.vocab_size),
        "channels": torch.arange(small.hidden_size),
        "neurons": torch.arange(small.intermediate_size),
        "head": torch.arange(head_size),
        "queries": (query_heads[:, None] * head_size + torch.arange(head_size)).flatten(),
        "keys": torch.arange(small.num_key_value_heads * num_repeats * head_size),
    }
    scaled = {"input_layernorm", "post_attention_layernorm", "norm"}
    if any(name.endswith("q_norm.weight") for name in trained):
        scaled |= {"q_proj", "k_proj"}  # their norms have the eps of the wider ones
    scale = (small.hidden_size / config.hidden_size) ** 0.5
    for name, weight in model.named_parameters():
        module = name.split(".")[-2]
        if module in RESIDUAL_WRITERS:
            weight.zero_()
        if name in trained:
            values = trained[name].float()
            if AXES[module][0] == "keys":
                values = values.unflatten(0, (-1, head_size)).repeat_interleave(num_repeats, 0).flatten(0, 1)
            if module in scaled:
                values = values * scale
            axes = [positions[axis] for axis in AXES[module][: weight.ndim]]
            weight[torch.meshgrid(*axes, indexing="ij")] = values.to(weight.dtype)
    return model


def check_growable(model_type: str, names: list[str]) -> None:
    """Refuse a model whose weights it is not known how to place.

    Args:
        model_type: name of the architecture in ``transformers``.
        names: names of the model's parameters.

    Raises:
        ValueError: naming the architecture or a parameter.
    """
    if model_type not in MODEL_TYPES:
        raise ValueError(f"grown.base is a {model_type!r} model; only {', '.join(MODEL_TYPES)} can be grown")
    unknown = [name for name in names if name.split(".")[-2] not in AXES]
    if unknown:
        raise ValueError(
            f"grown.base has a weight {unknown[0]!r} that a {model_type!r} model does not have; adapters must be part "
            "of the weights: name the model that the fine-tuning exported"
        )


def grown_config(small: PreTrainedConfig, shape: dict[str, int], head_size: int) -> PreTrainedConfig:
    """Return the configuration of the larger model.

    Args:
        small: the base's.
        shape: the sizes that change, by their name in the configuration.
        head_size: channels of a head, which stay.

    Raises:
        ValueError: if a size is smaller than the base's, or sizes do not go together.
    """
    for name, size in shape.items():
        if size < getattr(small, name):
            raise ValueError(
                f"grown.{name} is {size}, but the base has {getattr(small, name)}: a model can only be grown; choose "
                f"{getattr(small, name)} or more, or leave it out"
            )
    values: dict[str, Any] = {**small.to_dict(), **shape, "head_dim": head_size}
    values["rms_norm_eps"] = small.rms_norm_eps * small.hidden_size / values["hidden_size"]
    if values.get("layer_types"):  # the new layers are behind the trained ones, which keep their sliding windows
        values["layer_types"] += ["full_attention"] * (values["num_hidden_layers"] - small.num_hidden_layers)
    queries, keys, hidden = (values[name] for name in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    if small.model_type == "llama" and hidden % queries:
        raise ValueError(
            f"grown.hidden_size is {hidden}, which is not a multiple of num_attention_heads {queries}, as "
            f"{type(small).__name__} requires; choose {hidden + -hidden % queries} or another multiple"
        )
    if queries % keys:
        raise ValueError(
            f"grown.num_attention_heads is {queries}, which is not a multiple of num_key_value_heads {keys}; choose "
            f"{queries + -queries % keys} or another multiple"
        )
    group = small.num_attention_heads // small.num_key_value_heads
    needed = small.num_key_value_heads * -(-group // (queries // keys))
    if needed > keys:
        raise ValueError(
            f"grown.num_attention_heads is {queries}: with num_key_value_heads {keys} that is {queries // keys} per "
            f"key head; the base has {group}, so its {small.num_key_value_heads} key heads would need {needed}. Choose "
            f"a num_attention_heads of {group * keys} or a larger multiple of {keys}"
        )
    return type(small).from_dict(values)


def head_positions(small: PreTrainedConfig, large: PreTrainedConfig) -> tuple[Tensor, int]:
    """Return where each query head goes, ``[num_attention_heads]``, int64, and how often a key head is repeated.

    Query heads keep their key heads: 4 query heads with 2 key heads go to 12 with 3, of which the last is new, and to
    8 with 8, where each key head is repeated::

        query heads   0  1 | 2  3     →   0  1  ?  ? | 2  3  ?  ? | ?  ?  ?  ?     0 | 1 | 2 | 3 | ? …
        key heads       A  |  B       →       A      |     B      |     ?          A | A | B | B | ? …
    """
    small_group = small.num_attention_heads // small.num_key_value_heads
    large_group = large.num_attention_heads // large.num_key_value_heads
    num_repeats = -(-small_group // large_group)
    heads = torch.arange(small.num_attention_heads)
    key_head, in_group = heads // small_group, heads % small_group
    return (key_head * num_repeats + in_group // large_group) * large_group + in_group % large_group, num_repeats
