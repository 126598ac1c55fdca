"""Models whose weights DeepSpeed's ZeRO-3 has split among processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import HfDeepSpeedConfig


@contextmanager
def loading_into_shards(config: dict[str, Any]) -> Iterator[None]:
    """Have ``transformers`` split each weight among the processes as soon as it exists; every process must enter.

    Only rank zero reads a checkpoint's values, into the memory of its CPU; no device ever holds the whole model.

    Args:
        config: DeepSpeed's, with ZeRO stage 3.
    """
    from deepspeed.runtime.zero import partition_parameters  # takes seconds, so only where it is used

    alive = HfDeepSpeedConfig(config)  # transformers keeps a weak reference: it has to live as long as the loading
    # Lightning calls us with DeepSpeed making every new parameter a shard. transformers does that itself, and what
    # comes after loading (new embeddings, adapters) needs whole parameters to initialise, which DeepSpeed shards when
    # training starts. So this leaves Lightning's context, and enters it again.
    outer = partition_parameters.top_level_context
    if outer is not None:
        outer.__exit__(None, None, None)
    try:
        yield
    finally:
        if outer is not None:
            outer.__enter__()
        del alive


def whole_shape(weight: Tensor) -> torch.Size:
    """Return the shape of a weight, which may be a shard: DeepSpeed leaves an empty vector in its place."""
    return getattr(weight, "ds_shape", weight.shape)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state with whole tensors; empty on all ranks but zero if the weights are shards.

    One weight at a time is put together from its shards, so that no device holds more than one; every process must
    call this. Names of one tied weight keep sharing it.
    """
    state = model.state_dict(keep_vars=True)
    if not any(hasattr(value, "ds_id") for value in state.values()):
        return {name: value.detach() for name, value in state.items()}
    import deepspeed

    whole: dict[int, Tensor] = {}
    for key, value in {id(value): value for value in state.values()}.items():  # a tied weight once, on every rank
        with deepspeed.zero.GatheredParameters([value]):
            if torch.distributed.get_rank() == 0:
                whole[key] = value.detach().cpu().clone()
    return {name: whole[id(value)] for name, value in state.items() if id(value) in whole}
