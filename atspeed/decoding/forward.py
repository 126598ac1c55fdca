"""The one function that calls a model."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from atspeed.decoding.output_head import MAX_LOGITS, token_log_probs, token_logits
from atspeed.decoding.sliding_window import SlidingWindow
from atspeed.decoding.tree_attention import shared_prompt
from atspeed.decoding.vocabulary_spans import Span, num_tokens_in

Normalize = Literal["vocabulary", "allowed"]

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
    spans: Sequence[Span] | None = None,
) -> Tensor:
    """Run a model once over new tokens, and return the log-probabilities of the wanted children.

    The model's base and its head are called one after the other, where the probe has found that the two give the
    model's logits, for more than :data:`MAX_LOGITS` logits, which are then not held at once, and where at most half of
    them are needed.

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
        spans: of the vocabulary, in which all wanted tokens lie that are legal; anywhere if not given. Under
            ``allowed`` no other logits are needed.

    Returns:
        ``[B, W]``, float32, at most 0; minus infinity for children that are not legal.
    """
    dtype = dtype or model.dtype
    bias = torch.where(mask, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
    limited = bias if window is None else window.limit(bias, positions)
    inputs: dict[str, Any] = {"position_ids": positions, "attention_mask": limited, "use_cache": True}
    inputs[cache_argument(type(model).forward)] = cache
    inputs |= shared_prompt(model, bias, num_shared, is_windowed=limited is not bias)
    vocab_size = getattr(model, HEAD_APART, 0)
    needs_few = normalize == "allowed" and spans is not None and 2 * num_tokens_in(spans) <= vocab_size
    if needs_few or tokens.shape[0] * num_parents * vocab_size > MAX_LOGITS:
        hidden = model.base_model(input_ids=tokens, **inputs).last_hidden_state[:, -num_parents:]
        of_tokens = token_log_probs if normalize == "vocabulary" else token_logits
        log_probs = of_tokens(hidden, model.get_output_embeddings(), vocab_size, wanted.parent, wanted.token, spans)
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
