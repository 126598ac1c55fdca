"""Attention that reads the prompt's keys without the tree mask, merged with the tree's by log-sum-exp.

All nodes of a tree see the same keys of their prompt. One softmax over prompt and tree needs a mask over both, which
keeps the fastest kernels away and makes transformers repeat every key for each head of a group. Two softmaxes do not::

    slot       prompt       tree          prompt: no mask, from each request's first token on
    node 2   . . x x x x    x . .         tree:   the mask of the new tokens, over few keys
    node 7   . . x x x x    . x x         answer: their mean, weighted by exp(log-sum-exp)

A model uses it after ``model.set_attn_implementation(TREE_ATTENTION)``. Other calls go to transformers' ``sdpa``: the
prompt's, those of ``transformers.generate``, whatever needs a gradient.
"""

import logging
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

log = logging.getLogger(__name__)

TREE_ATTENTION = "atspeed_tree"
"""The ``attn_implementation`` of a model that uses it."""
HIDDEN = -1e30
"""Added to a score that is not seen. Unlike the smallest number, a kernel may multiply it by log2(e)."""
ALIGNMENT = 16
"""Elements between the rows of a bias, as the memory-efficient kernel on CUDA reads it."""
_CHANGES_SCORES = ("softcap", "s_aux", "sinks", "position_bias")  # arguments for what is more than a biased softmax


class SharedPrompt:
    """Which keys the nodes of a call share, for all layers.

    Args:
        bias: what is added to attention scores: 0, or at most the smallest number of float16; alike for all queries
            of a request over the first ``num_keys`` slots, where only the first ones are hidden; ``[B, 1, Q, S]``.
        num_keys: slots of the prompt, P.

    Attributes:
        prompt_bias: of the prompt's keys, ``[B, 1, 1, P]``.
        tree_bias: of all others, ``[B, 1, Q, S - P]``.
        num_seen: how many of the prompt's keys are seen, ``[B]``, int32.
    """

    def __init__(self, bias: Tensor, num_keys: int) -> None:
        self.num_keys = num_keys
        hidden = max(HIDDEN, torch.finfo(bias.dtype).min)
        self.prompt_bias = aligned(bias[:, :, :1, :num_keys].clamp(min=hidden))
        self.tree_bias = aligned(bias[:, :, :, num_keys:].clamp(min=hidden))
        self.num_seen = (self.prompt_bias == 0).sum(3, dtype=torch.int32).flatten()
        self._first_rows: dict[int, Tensor] = {}

    @cached_property
    def first_queries(self) -> Tensor:
        """Index of each request's first query among those of all, and their number, ``[B + 1]``, int32."""
        num_requests, _, num_queries, _ = self.tree_bias.shape
        index = torch.arange(num_requests + 1, dtype=torch.int32, device=self.num_seen.device)
        return index * num_queries

    def first_rows(self, rows: int) -> Tensor:
        """Return the row of each request's first key that is seen, ``[B + 1]``, int32, the last one unused.

        Args:
            rows: between the first slots of two requests.
        """
        if rows not in self._first_rows:
            first = torch.nn.functional.pad(self.num_keys - self.num_seen, (0, 1))
            index = torch.arange(len(first), dtype=torch.int32, device=first.device)
            self._first_rows[rows] = index * rows + first
        return self._first_rows[rows]


def shared_prompt(model: PreTrainedModel, bias: Tensor, num_keys: int, is_windowed: bool) -> dict[str, Any]:
    """Return the arguments that let a model's attention split its keys, if it is :func:`tree_attention`.

    Args:
        model: the model.
        bias: as for :class:`SharedPrompt`.
        num_keys: slots of the prompt; 0 if the call's tokens see them differently.
        is_windowed: whether a sliding window hides more than the bias does.
    """
    if not num_keys or getattr(model.config.get_text_config(), "_attn_implementation", None) != TREE_ATTENTION:
        return {}
    if is_windowed:
        _say_once(f"{type(model).__name__} has a sliding window shorter than the request: its attention is sdpa")
        return {}
    return {"shared_prompt": SharedPrompt(bias, num_keys)}


@cache
def _say_once(message: str) -> None:
    log.info("%s", message)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prompt: SharedPrompt | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to the prompt and to the tree apart; an attention function of transformers' interface.

    Args:
        module: the attention layer.
        query: ``[B, H, Q, D]``.
        key: of the prompt, then of the tree, ``[B, G, S, D]``; each of the G heads serves H / G of the query.
        value: as ``key``.
        attention_mask: what is added to attention scores, ``[B, 1, Q, S]``.
        scaling: factor of the scores; ``D ** -0.5`` if not given.
        dropout: share of the weights to drop; must be 0 for a split.
        shared_prompt: where to split; without it, the function is transformers' ``sdpa``.
        kwargs: other arguments of the interface.

    Returns:
        ``[B, Q, H, D]`` in the query's dtype, and no weights.

    Raises:
        ValueError: if the model caps scores, adds sinks or a bias of its own to them.
    """
    for name in _CHANGES_SCORES:
        if kwargs.get(name) is not None:
            raise ValueError(
                f"attn_implementation {TREE_ATTENTION!r} knows no {name!r}, which {type(module).__name__} needs; use "
                "the model's default attn_implementation"
            )
    # what says how much each part weighs has no gradient
    needs_gradient = torch.is_grad_enabled() and any(states.requires_grad for states in (query, key, value))
    if shared_prompt is None or needs_gradient or dropout > 0 or key.shape != value.shape:
        how = {"scaling": scaling, "dropout": dropout, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **how)
    split = shared_prompt.num_keys
    groups = query.shape[1] // key.shape[1]
    prompt, prompt_lse = attend_prompt(query, key[:, :, :split], value[:, :, :split], shared_prompt, scaling)
    tree_key, tree_value = (repeat_kv(states[:, :, split:], groups) for states in (key, value))
    tree, tree_lse = attend(query, tree_key, tree_value, shared_prompt.tree_bias, scaling)
    share = (tree_lse - prompt_lse).sigmoid()[..., None]
    merged = torch.lerp(prompt.float(), tree.float(), share).to(query.dtype)  # [B, H, Q, D]
    return merged.transpose(1, 2).contiguous(), None


def attend_prompt(
    query: Tensor, key: Tensor, value: Tensor, shared: SharedPrompt, scaling: float | None
) -> tuple[Tensor, Tensor]:
    """Return what queries get from the prompt and the log-sum-exp of their scores, no key repeated.

    On CUDA in half precision by the flash kernel for rows of different lengths, which begins at each request's first
    token; elsewhere with padding masked.

    Returns:
        ``[B, H, Q, D]``, and ``[B, H, Q]`` in float32.
    """
    num_requests, _, num_queries, width = query.shape
    if not query.is_cpu and query.dtype in (torch.float16, torch.bfloat16) and width <= 256 and width % 8 == 0:
        if key.stride() != value.stride() or key.stride(0) % key.stride(2):
            key, value = key.contiguous(), value.contiguous()
        attended, lse = torch.ops.aten._flash_attention_forward(
            query.transpose(1, 2).flatten(0, 1),  # [B · Q, H, D]
            _as_rows(key),
            _as_rows(value),
            shared.first_queries,
            shared.first_rows(key.stride(0) // key.stride(2)),
            num_queries,
            shared.num_keys,
            0.0,
            False,
            False,
            scale=scaling,
            seqused_k=shared.num_seen,
        )[:2]
        attended = attended.unflatten(0, (num_requests, num_queries)).transpose(1, 2)
        return attended, lse.unflatten(1, (num_requests, num_queries)).transpose(0, 1)
    folded = query.reshape(num_requests, key.shape[1], -1, width)  # [B, G, H / G · Q, D]
    attended, lse = attend(folded, key, value, shared.prompt_bias, scaling)
    return attended.reshape(*query.shape[:3], -1), lse.reshape(query.shape[:3])


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scaling: float | None) -> tuple[Tensor, Tensor]:
    """Return attention with a bias that is broadcast, and the log-sum-exp of the scores in float32."""
    aten = torch.ops.aten
    if query.is_cpu:
        return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=scaling)
    bias = bias.expand(*query.shape[:3], -1)
    attended, lse, *_ = aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, scale=scaling)
    return attended, lse[:, :, : query.shape[2]]  # the kernel rounds the number of queries up


def _as_rows(states: Tensor) -> Tensor:
    """Return a view of keys or values in which slots of all requests are rows, ``[B, G, P, D]`` → ``[R, G, D]``.

    Slot s of request b is row ``b · stride(0) / stride(2) + s``; what lies between belongs to other heads.
    """
    num_requests, num_heads, num_slots, width = states.shape
    rows = states.stride(0) // states.stride(2)
    size = (num_requests - 1) * rows + num_slots, num_heads, width
    return states.as_strided(size, (states.stride(2), states.stride(1), states.stride(3)))


def aligned(bias: Tensor) -> Tensor:
    """Return a copy with rows that begin at multiples of :data:`ALIGNMENT` elements."""
    length = bias.shape[-1]
    return torch.nn.functional.pad(bias, (0, -length % ALIGNMENT))[..., :length]


AttentionInterface.register(TREE_ATTENTION, tree_attention)
AttentionMaskInterface.register(TREE_ATTENTION, sdpa_mask)  # else plain calls and generate would have no mask at all
