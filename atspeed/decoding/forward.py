"""The one function that calls a model."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

Normalize = Literal["vocabulary", "allowed"]


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
) -> Tensor:
    """Run a model once over new tokens, and return the log-probabilities of the wanted children.

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

    Returns:
        ``[B, W]``, float32, at most 0; minus infinity for children that are not legal.
    """
    bias = torch.where(mask, 0.0, torch.finfo(model.dtype).min).to(model.dtype)
    output = model(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=bias[:, None],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=num_parents,
    )
    logits = output.logits.float()  # [B, T, V]
    if normalize == "vocabulary":
        logits = logits.log_softmax(2)
    log_probs = logits.flatten(1).gather(1, wanted.parent * logits.shape[2] + wanted.token)  # [B, W]
    if normalize == "allowed":
        total = _logsumexp_by(wanted.parent, log_probs.masked_fill(~wanted.legal, -torch.inf), num_parents)
        log_probs = (log_probs - total.gather(1, wanted.parent)).clamp(max=0)  # rounding may lift a certain child above
    return log_probs.masked_fill(~wanted.legal, -torch.inf)


def _logsumexp_by(group: Tensor, values: Tensor, num_groups: int) -> Tensor:
    """Return the log of the summed exponentials of each group's values, ``[B, W]`` each → ``[B, num_groups]``."""
    empty = torch.zeros(len(values), num_groups, device=values.device)
    largest = empty.scatter_reduce(1, group, values.detach(), "amax", include_self=False)
    largest = torch.where(largest == -torch.inf, 0, largest)
    total = empty.scatter_add(1, group, (values - largest.gather(1, group)).exp())
    return total.clamp(min=torch.finfo(total.dtype).tiny).log() + largest
