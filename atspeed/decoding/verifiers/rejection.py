"""Draws without replacement and rejection sampling, as pure functions.

Candidates are the children of a request's K prefixes; a draw is an index into them, -1 where there is none.
"""

import torch
from torch import Tensor

from atspeed.decoding.indexing import index_of
from atspeed.decoding.request_noise import RequestNoise, Use
from atspeed.decoding.trie import ROOT


def draw(log_probs: Tensor, width: int, uniform: Tensor) -> Tensor:
    """Draw candidates without replacement, by the Gumbel-top-k trick, which stays finite at any temperature.

    Args:
        log_probs: of the candidates, up to a constant per row, ``[B, W]``.
        width: how many to draw.
        uniform: a random number between 0 and 1 for each candidate, ``[B, W]``, float64.

    Returns:
        indices of the drawn candidates in the order of the draws, ``[B, width]``, int64; -1 where there are fewer.
    """
    gumbel = -(-uniform.log()).log()
    keys, indices = (log_probs + gumbel).topk(min(width, log_probs.shape[1]), dim=1)
    indices = indices.masked_fill(keys == -torch.inf, -1)
    return torch.nn.functional.pad(indices, (0, width - indices.shape[1]), value=-1)


def recursive_rejection(target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, noise: RequestNoise) -> Tensor:
    """Choose K candidates by recursive rejection sampling without replacement (RSD, arXiv 2402.14160, Algorithm 1).

    Proposals are tested in the order in which the draft drew them. One is accepted with probability ``min(1, p / q)``;
    after a rejection p becomes the residual ``max(0, p − q)``, and q continues without the proposal, renormalised.
    After an acceptance p starts anew, without what has been chosen. What the proposals do not give is drawn from p. The
    law of the result is that of K draws without replacement from p.

    Args:
        target: log p of the candidates, ``[B, W]``, float64.
        draft: log q of the candidates, ``[B, W]``, float64.
        drawn: the proposals, indices ``[B, N]``, int64; -1 where there is none.
        num_beams: K.
        noise: the random numbers of the candidates.

    Returns:
        distinct indices, ``[B, K]``, int64; -1 where there are fewer.
    """
    residual, proposed = target.exp(), draft.exp()
    thresholds = noise.of(Use.TEST).gather(1, drawn.clamp(min=0))  # [B, N]
    accepted = torch.full_like(drawn, -1)
    for turn, (proposal, threshold) in enumerate(zip(drawn.T, thresholds.T, strict=True)):
        unfinished = (accepted >= 0).sum(1) < num_beams
        tested = unfinished & (proposal >= 0)
        index = proposal.clamp(min=0)[:, None]
        residual, proposed = _normalised(residual), _normalised(proposed)
        accepts = tested & (threshold * proposed.gather(1, index)[:, 0] < residual.gather(1, index)[:, 0])
        accepted[:, turn] = torch.where(accepts, proposal, -1)
        target = target.scatter(1, index, target.gather(1, index).masked_fill(accepts[:, None], -torch.inf))
        following = torch.where(accepts[:, None], target.exp(), (residual - proposed).clamp(min=0))
        residual = torch.where(tested[:, None], following, residual)
        proposed = proposed.scatter(1, index, proposed.gather(1, index).masked_fill(tested[:, None], 0))
    # A rejection leaves some residual; where rounding left none, p itself is what is left.
    residual = torch.where(residual.sum(1, keepdim=True) > 0, residual.log(), target)
    next_draw = draw(residual, 1, noise.of(Use.RESIDUAL))
    target = target.scatter(1, next_draw.clamp(min=0), -torch.inf)
    return _first_valid(
        torch.cat([accepted, next_draw, draw(target, num_beams, noise.of(Use.TARGET))], dim=1), num_beams
    )


def independent_rejection(target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, noise: RequestNoise) -> Tensor:
    """Choose K candidates by testing each proposal by itself (AtSpeed, arXiv 2410.05165, Algorithm 2).

    A proposal is accepted with probability ``min(1, p / q)``; the first K of the accepted are kept. A shortfall is
    drawn without replacement from the residual ``max(0, p − q)``, and from p where the residual has too few candidates.
    Arguments and result as in :func:`recursive_rejection`.
    """
    thresholds = noise.of(Use.TEST).gather(1, drawn.clamp(min=0))  # [B, N]
    index = drawn.clamp(min=0)
    accepts = (drawn >= 0) & (thresholds.log() + draft.gather(1, index) < target.gather(1, index))
    accepted = torch.where(accepts, drawn, -1)
    residual = _without((target.exp() - draft.exp()).clamp(min=0).log(), accepted)
    from_residual = draw(residual, num_beams, noise.of(Use.RESIDUAL))
    from_target = draw(_without(_without(target, accepted), from_residual), num_beams, noise.of(Use.TARGET))
    return _first_valid(torch.cat([accepted, from_residual, from_target], dim=1), num_beams)


def find(nodes: Tensor, candidates: Tensor) -> Tensor:
    """Return the index of each node ``[B, N]`` among distinct candidates ``[B, W]``; -1 for the root and for others."""
    index, found = index_of(nodes, candidates)
    return torch.where(found & (nodes != ROOT), index, -1)


def take(values: Tensor, indices: Tensor, missing: float) -> Tensor:
    """Return the values at some indices, ``[B, W]`` → ``[B, K]``; ``missing`` where the index is -1."""
    return values.gather(1, indices.clamp(min=0)).masked_fill(indices < 0, missing)


def _without(log_probs: Tensor, indices: Tensor) -> Tensor:
    """Return log-probabilities without the candidates at some indices; -1 takes none out."""
    padded = torch.nn.functional.pad(log_probs, (0, 1))  # -1 meets the padding
    return padded.scatter(1, indices % padded.shape[1], -torch.inf)[:, :-1]


def _first_valid(indices: Tensor, count: int) -> Tensor:
    """Return the first ``count`` indices that are not -1."""
    order = (indices < 0).byte().argsort(dim=1, stable=True)[:, :count]
    return indices.gather(1, order)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
