"""A model's output embedding, for some positions and some of the vocabulary at a time."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from atspeed.decoding.vocabulary_spans import Span, num_tokens_in, split_spans

MAX_LOGITS = 1 << 22
"""How many logits of a plain ``Linear`` to hold at once, 16 MiB in float32; two to three times that is in use."""
SQUARE = 1 << 11
"""Most positions of a block that does not span the vocabulary: ``SQUARE² = MAX_LOGITS``, and a square block reads the
least, of the output embedding and of the hidden states together."""
ALIGNMENT = 128
"""The width of blocks is a multiple of it, if it can be: products of odd widths take a third longer (on a CPU)."""
MAX_BYTES = 40 << 20
"""Most bytes of logits to let any other head return at once: 81 positions of 128,256 tokens in float32. Each of its
calls reads all its weights."""
MAX_LOGITS_OF_PART = 1 << 20
"""How many of those logits to sum up at once."""


def token_logits(
    hidden: Tensor, head: nn.Module, vocab_size: int, parent: Tensor, token: Tensor, spans: Sequence[Span] | None = None
) -> Tensor:
    """Return the logits of some tokens, computed in the spans that these lie in only.

    Arguments and result as for :func:`token_log_probs`.
    """
    spans = spans or [(0, vocab_size)]
    values = torch.zeros_like(token, dtype=torch.float32)
    for first, parts in _blocks(hidden, head, spans, vocab_size):
        for begin, logits in parts:
            values = _pick(values, logits, begin, first, parent, token)
        del logits  # before the head returns the next ones: these may be a view of all that it returned last
    return values


def token_log_probs(
    hidden: Tensor, head: nn.Module, vocab_size: int, parent: Tensor, token: Tensor, spans: Sequence[Span] | None = None
) -> Tensor:
    """Return the log-probabilities of some tokens, by the log-softmax over the vocabulary.

    A block of logits is computed, summed up and dropped before the next one, so a token's logit and the sum that it is
    a part of are rounded alike. Three positions of four tokens in blocks of two by two, in this order::

        tokens       0 1   2 3
        position 0   1 1   2 2
                 1   1 1   2 2
        position 2   3 3   4 4

    Args:
        hidden: last hidden states, ``[B, T, width of the model]``.
        head: the output embedding. A plain ``Linear`` is applied to parts of the vocabulary, so that its weight is read
            once; any other one, packed or quantised or watched by hooks, and any one that autograd watches, is called
            as it is, for fewer positions at a time.
        vocab_size: ``V``.
        parent: which of the ``T`` positions a token follows, ``[B, W]``, int64.
        token: token ids, ``[B, W]``, int64.
        spans: where the tokens lie, in ascending order; anywhere if not given. What lies elsewhere gets a value that
            means nothing, but is finite.

    Returns:
        ``[B, W]``, float32, at most 0.
    """
    spans = spans or [(0, vocab_size)]
    values = torch.zeros_like(token, dtype=torch.float32)
    largest, total = [], []
    for first, parts in _blocks(hidden, head, [(0, vocab_size)], vocab_size):
        maxima, sums = [], []  # of each part, [B, t]
        for begin, logits in parts:
            if any(first_token < begin + logits.shape[2] and begin < end for first_token, end in spans):
                values = _pick(values, logits, begin, first, parent, token)
            # finite, so that minus infinity everywhere has the sum 0
            maxima.append(logits.detach().amax(2).clamp(min=torch.finfo(logits.dtype).min))
            sums.append((logits - maxima[-1][..., None]).exp_().sum(2))
        del logits  # as above
        maximum = torch.stack(maxima).amax(0)
        largest.append(maximum)
        total.append((torch.stack(sums) * (torch.stack(maxima) - maximum).exp()).sum(0))
    # as in log_softmax, the largest logit is subtracted first, so that large logits keep their digits
    return (values - torch.cat(largest, 1).gather(1, parent)) - torch.cat(total, 1).log().gather(1, parent)


def _blocks(
    hidden: Tensor, head: nn.Module, spans: Sequence[Span], vocab_size: int
) -> Iterator[tuple[int, Iterator[tuple[int, Tensor]]]]:
    """Yield the first of some positions and, with the first token of each, the parts of the spans for them.

    A part is float32 logits, ``[B, t, v]``, of at least one position of each request and at least one token.
    """
    batch_size, num_positions, _ = hidden.shape
    linear = _plain_linear(head, hidden)
    if linear is not None:
        most_positions, max_logits = max(SQUARE, MAX_LOGITS // num_tokens_in(spans)), MAX_LOGITS
    else:
        most_positions, max_logits = MAX_BYTES // (vocab_size * hidden.dtype.itemsize), MAX_LOGITS_OF_PART
    block = min(num_positions, max(1, most_positions // batch_size))
    width = max(1, max_logits // (batch_size * block))
    spans = split_spans(spans, width - width % ALIGNMENT or width)
    for number, rows in enumerate(hidden.split(block, dim=1)):
        yield number * block, _products(linear, rows, spans) if linear is not None else _cut_logits(head, rows, spans)


def _plain_linear(head: nn.Module, hidden: Tensor) -> nn.Linear | None:
    """Return the head if nothing is lost by computing with some rows of its weight instead of calling it."""
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:  # quantised weights have other types
        return None
    if head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
        return None
    # The gradient of the hidden states would be a sum of as many rounded ones as there are parts.
    needs_gradients = torch.is_grad_enabled() and (hidden.requires_grad or head.weight.requires_grad)
    return None if needs_gradients else head


def _products(head: nn.Linear, rows: Tensor, spans: Sequence[Span]) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits in the spans, computed one after the other."""
    rows = rows.contiguous()  # once, not in each product
    for begin, end in spans:
        bias = None if head.bias is None else head.bias[begin:end]
        yield begin, nn.functional.linear(rows, head.weight[begin:end], bias).float()


def _cut_logits(head: nn.Module, rows: Tensor, spans: Sequence[Span]) -> Iterator[tuple[int, Tensor]]:
    """Yield the logits in the spans, cut out of all that a head returns."""
    logits = head(rows)
    bounds = [0, *(bound for span in spans for bound in span), logits.shape[2]]
    sizes = [after - before for before, after in pairwise(bounds)]
    # in one operation, whose gradient is joined once; a gradient of a slice is as large as all logits
    for (begin, _), part in zip(spans, logits.split_with_sizes(sizes, 2)[1::2], strict=True):
        yield begin, part.float()


def _pick(values: Tensor, logits: Tensor, begin: int, first: int, parent: Tensor, token: Tensor) -> Tensor:
    """Return ``values`` with the logits of the tokens that lie in a block; all but ``logits`` are ``[B, W]``.

    Args:
        values: of the tokens so far.
        logits: ``[B, t, v]``.
        begin: the first of the ``v`` tokens.
        first: the first of the ``t`` positions.
        parent: as in :func:`token_log_probs`.
        token: the same.
    """
    _, num_positions, width = logits.shape
    row, column = parent - first, token - begin
    is_here = (row >= 0) & (row < num_positions) & (column >= 0) & (column < width)
    index = torch.where(is_here, row * width + column, 0)
    return torch.where(is_here, logits.flatten(1).gather(1, index), values)
