"""The one function that calls a model."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from atspeed.decoding.sliding_window import SlidingWindow
from atspeed.decoding.tree_attention import shared_prompt

Normalize = Literal["vocabulary", "allowed"]

MAX_LOGITS = 1 << 25
"""How many logits of a call to hold at once: 128 MiB in float32, 261 positions of 128,256 tokens. With fewer, reading
the output embedding anew for each chunk would take longer than computing with it (about 200 positions on a GPU)."""
HEAD_APART = "_atspeed_head_apart"
"""Attribute of a model: its vocabulary's size V where the probe found that its base and its head, called one after the
other, give its logits; else 0."""


class WantedChildren(NamedTuple):
    """The tokens whose log-probabilities are wanted, each after one of the last ``T`` positions of a call.

    Two nodes of a request, of which the first has the children 5 and 6, the second the child 5, which a filter forbids
    (``T = 2``, ``W = 3``)::

        parent   0     0     1
        token    5     6     5
        legal    True  True  False

    Attributes:
        parent: which of the ``T`` positions a token follows, ``[B, W]``, int64.
        token: token ids, ``[B, W]``, int64.
        legal: False for padding and for what a request does not allow, ``[B, W]``, bool.
    """

    parent: Tensor
    token: Tensor
    legal: Tensor


def child_log_probs(
    model: PreTrainedModel,
    cache: Cache,
    tokens: Tensor,
    positions: Tensor,
    mask: Tensor,
    wanted: WantedChildren,
    num_parents: int,
    normalize: Normalize,
    dtype: torch.dtype | None = None,
    window: SlidingWindow | None = None,
    num_shared: int = 0,
) -> Tensor:
    """Run a model once over new tokens, and return the log-probabilities of the wanted children.

    More than :data:`MAX_LOGITS` logits are computed for some positions at a time, by the model's base and its head,
    where the probe has found that the two give the model's logits.

    Args:
        model: the model.
        cache: its key-value cache of ``S`` slots, which gets ``Q`` more.
        tokens: new tokens, ``[B, Q]``, int64.
        positions: their positions, ``[B, Q]``, int64.
        mask: True where a new token sees a slot, old or new, ``[B, Q, S + Q]``, bool.
        wanted: which children of which of the last ``num_parents`` tokens.
        num_parents: ``T``, at most ``Q``.
        normalize: ``vocabulary``: log-softmax over all tokens, as ``transformers.generate`` ranks; ``allowed``: over a
            parent's legal children.
        dtype: the model's, if at hand: a model finds its own in the time of ten tensor operations.
        window: the model's, if it has one; it gets the positions of the new slots.
        num_shared: how many of the first slots all new tokens of a request see alike, its prompt's, padded on the left.

    Returns:
        ``[B, W]``, float32, at most 0; minus infinity for children that are not legal.
    """
    dtype = dtype or model.dtype
    bias = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
    limited = bias if window is None else window.limit(bias, positions)
    inputs: dict[str, Any] = {"position_ids": positions, "attention_mask": limited, "use_cache": True}
    inputs[cache_argument(type(model).forward)] = cache
    inputs |= shared_prompt(model, bias, num_shared, is_windowed=limited is not bias)
    logits_per_position = tokens.shape[0] * getattr(model, HEAD_APART, 0)
    if num_parents * logits_per_position > MAX_LOGITS:
        hidden = model.base_model(input_ids=tokens, **inputs).last_hidden_state[:, -num_parents:]
        chunks = hidden.split(max(1, MAX_LOGITS // logits_per_position), dim=1)  # [B, t, width of the model] each
        log_probs = _gather_in_chunks(chunks, model.get_output_embeddings(), wanted, normalize)
    else:
        logits = model(input_ids=tokens, **inputs, logits_to_keep=num_parents).logits
        log_probs = _gather(logits, wanted.parent, wanted.token, normalize)
    if normalize == "allowed":
        total = _logsumexp_by(wanted.parent, log_probs.masked_fill(~wanted.legal, -torch.inf), num_parents)
        log_probs = (log_probs - total.gather(1, wanted.parent)).clamp(max=0)  # rounding may lift a certain child above
    return torch.where(wanted.legal, log_probs, -torch.inf)


@lru_cache
def cache_argument(forward: Callable[..., Any]) -> str:
    """Return the name of the argument of ``forward`` for the cache: ``past_key_values`` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def _gather_in_chunks(
    chunks: Sequence[Tensor], head: nn.Module, wanted: WantedChildren, normalize: Normalize
) -> Tensor:
    """Return what :func:`_gather` returns for the logits of all chunks of positions, with those of one at a time."""
    values, begin = torch.zeros_like(wanted.token, dtype=torch.float32), 0
    for chunk in chunks:
        position = (wanted.parent - begin).clamp(0, chunk.shape[1] - 1)
        here = _gather(head(chunk), position, wanted.token, normalize)
        values = torch.where(wanted.parent < begin, values, here)  # a later chunk corrects what lies beyond this one
        begin += chunk.shape[1]
    return values


def _gather(logits: Tensor, parent: Tensor, token: Tensor, normalize: Normalize) -> Tensor:
    """Return log-probabilities (``vocabulary``) or logits (``allowed``) of tokens.

    Args:
        logits: ``[B, T, V]``.
        parent: the position that a token follows, ``[B, W]``, int64.
        token: ``[B, W]``, int64.
        normalize: as in :func:`child_log_probs`.

    Returns:
        ``[B, W]``, float32.
    """
    logits = logits.float()
    if normalize == "vocabulary":
        logits = logits.log_softmax(2)
    return logits.flatten(1).gather(1, parent * logits.shape[2] + token)


def _logsumexp_by(group: Tensor, values: Tensor, num_groups: int) -> Tensor:
    """Return the log of the summed exponentials of each group's values, ``[B, W]`` each → ``[B, num_groups]``."""
    empty = torch.zeros(len(values), num_groups, device=values.device)
    largest = empty.scatter_reduce(1, group, values.detach(), "amax", include_self=False)
    largest = torch.where(largest == -torch.inf, 0, largest)
    total = empty.scatter_add(1, group, (values - largest.gather(1, group)).exp())
    return total.clamp(min=torch.finfo(total.dtype).tiny).log() + largest
