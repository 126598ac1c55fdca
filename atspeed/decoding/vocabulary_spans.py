"""Where in a vocabulary the tokens of a catalog's codes lie."""

from collections.abc import Sequence

import torch
from torch import Tensor

Span = tuple[int, int]
"""Some tokens next to each other: the first one, and the one after the last."""

LARGEST_GAP = 1024
"""Most other tokens between two of a span: to compute with the rows of so many in vain takes about as long as the
operations for one more span."""


def vocabulary_spans(tokens: Tensor) -> tuple[Span, ...]:
    """Return spans in ascending order that hold all given tokens, at most :data:`LARGEST_GAP` others in a row.

    Args:
        tokens: token ids, ``[M]``, int64, at least one.

    >>> vocabulary_spans(torch.tensor([32_003, 2, 32_000, 32_002, 2]))
    ((2, 3), (32000, 32004))
    """
    used = torch.zeros(int(tokens.max()) + 1, dtype=torch.bool, device=tokens.device)
    used[tokens] = True
    distinct = used.nonzero()[:, 0].cpu()
    ends = (distinct.diff() > LARGEST_GAP + 1).nonzero()[:, 0]
    first = torch.cat([distinct[:1], distinct[ends + 1]]).tolist()
    last = torch.cat([distinct[ends], distinct[-1:]]).tolist()
    return tuple((begin, end + 1) for begin, end in zip(first, last, strict=True))


def num_tokens_in(spans: Sequence[Span]) -> int:
    """Return how many tokens spans hold."""
    return sum(end - begin for begin, end in spans)


def split_spans(spans: Sequence[Span], width: int) -> list[Span]:
    """Cut spans into such of at most ``width`` tokens."""
    return [(first, min(first + width, end)) for begin, end in spans for first in range(begin, end, width)]
