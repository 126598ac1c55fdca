"""Draws without replacement and rejection sampling, as pure functions."""

import torch
from torch import Tensor

from atspeed.decoding.trie import ROOT


def draw(log_probs: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
    """Draw candidates without replacement, by the Gumbel-top-k trick, which stays finite at any temperature.

    Args:
        log_probs: of the candidates, up to a constant a row, ``[B, W]``.
        width: how many to draw.
        generator: of random numbers.

    Returns:
        places of the drawn candidates in the order of the draws, ``[B, width]``; -1 where there are fewer.
    """
    noise = torch.empty_like(log_probs).exponential_(generator=generator).log()
    keys, places = (log_probs - noise).topk(min(width, log_probs.shape[1]), dim=1)
    places = places.masked_fill(keys == -torch.inf, -1)
    return torch.nn.functional.pad(places, (0, width - places.shape[1]), value=-1)


def places_of(nodes: Tensor, candidates: Tensor) -> Tensor:
    """Return where each of the nodes ``[B, N]`` stands among distinct candidates ``[B, W]``; -1 if it does not."""
    order = candidates.sort(1)
    place = torch.searchsorted(order.values, nodes.contiguous()).clamp(max=candidates.shape[1] - 1)
    found = (order.values.gather(1, place) == nodes) & (nodes != ROOT)
    return torch.where(found, order.indices.gather(1, place), -1)


def take(values: Tensor, places: Tensor, missing: float) -> Tensor:
    return values.gather(1, places.clamp(min=0)).masked_fill(places < 0, missing)


def without(log_probs: Tensor, places: Tensor) -> Tensor:
    """Return log-probabilities without the candidates at ``places``; -1 takes none out."""
    padded = torch.nn.functional.pad(log_probs, (0, 1))  # -1 meets the padding
    return padded.scatter(1, places % padded.shape[1], -torch.inf)[:, :-1]


def first_valid(places: Tensor, count: int) -> Tensor:
    """Return the first ``count`` places that are not -1."""
    order = (places < 0).byte().argsort(dim=1, stable=True)[:, :count]
    return places.gather(1, order)


def normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
