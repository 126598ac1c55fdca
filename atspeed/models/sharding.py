"""Models whose weights DeepSpeed's ZeRO-3 splits among processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations import HfDeepSpeedConfig


@contextmanager
def loading_into_shards(config: dict[str, Any]) -> Iterator[None]:
    """Have ``transformers`` split each weight among the processes as soon as it exists; every process must enter.

    Only rank zero reads a checkpoint's values, into CPU memory; no device ever holds the complete model.

    Args:
        config: the configuration of DeepSpeed, with ZeRO stage 3.
    """
    from deepspeed.runtime.zero import partition_parameters  # takes seconds, so it is imported only here

    alive = HfDeepSpeedConfig(config)  # transformers keeps a weak reference only
    # Lightning has entered a context in which DeepSpeed shards every new parameter. transformers shards what it loads
    # itself, and what is added afterwards (new embeddings, adapters) must be initialised unsharded; DeepSpeed shards it
    # when training starts. So Lightning's context is left here and entered again at the end.
    outer = partition_parameters.top_level_context
    if outer is not None:
        outer.__exit__(None, None, None)
    try:
        yield
    finally:
        if outer is not None:
            outer.__enter__()
        del alive


def unsharded_shape(weight: Tensor) -> torch.Size:
    """Return the shape of a weight before sharding: DeepSpeed replaces a sharded weight by an empty vector."""
    return getattr(weight, "ds_shape", weight.shape)


def unsharded_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state with unsharded tensors; if the weights are sharded, other ranks than zero get ``{}``.

    Weights are gathered one by one, so that no device holds more than one of them; every process must call this. The
    names of a tied weight keep sharing one tensor.
    """
    state = model.state_dict(keep_vars=True)
    if not any(hasattr(value, "ds_id") for value in state.values()):
        return {name: value.detach() for name, value in state.items()}
    import deepspeed

    gathered: dict[int, Tensor] = {}
    for key, value in {
        id(value): value for value in state.values()
    }.items():  # each tied weight once, in the same order on every rank
        with deepspeed.zero.GatheredParameters([value]):
            if torch.distributed.get_rank() == 0:
                gathered[key] = value.detach().cpu().clone()
    return {name: gathered[id(value)] for name, value in state.items() if id(value) in gathered}
