"""A draft's opinion of descendants of the beams: the target's scores as far as they are known, continued by its own."""

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.frontier import beam_above
from atspeed.decoding.scorer import PrefixScorer


def score_children(
    nodes: Tensor,
    mask: Tensor,
    scores: Tensor | None,
    beams: Beams,
    target: PrefixScorer | None,
    draft: PrefixScorer,
) -> tuple[Tensor, Tensor]:
    """Return the children of nodes and their scores; the draft scores what it has to for that.

    Args:
        nodes: the beams or descendants of them, ``[B, W]``, int64.
        mask: False where a node is padding, ``[B, W]``, bool.
        scores: of the nodes, ``[B, W]``, float32, if they are known.
        beams: where the target's search stands.
        target: the target's scorer; what it has scored before counts instead of the draft's opinion. None: it does not.
        draft: the draft's scorer.

    Returns:
        children, ``[B, W · C]``, int64, and float32 scores of the same shape, minus infinity where there is no child.
    """
    trie = draft.trie
    draft.score((trie.path(nodes) * mask[..., None]).flatten(1))
    children, log_probs = draft.children(nodes)  # [B, W, C]
    if target is not None and target.nodes.shape[1] and (known := target.is_scored(nodes)).any():
        log_probs = torch.where(known[..., None], target.children(nodes)[1], log_probs)
    if scores is None:
        scores = scores_of(nodes, beams, target, draft)
    scores = scores.masked_fill(~mask, -torch.inf)
    return children.flatten(1), (scores[..., None] + log_probs).flatten(1)


def scores_of(nodes: Tensor, beams: Beams, target: PrefixScorer | None, draft: PrefixScorer) -> Tensor:
    """Return the scores of descendants of the beams, ``[B, W]``, float32; arguments as of :func:`score_children`."""
    trie = draft.trie
    path = trie.path(nodes)  # [B, W, L]
    below_beam = trie.depth(path) > beams.depth[:, None, None]
    flat = path.flatten(1)
    log_probs = draft.log_probs(flat)
    if target is not None and target.nodes.shape[1] and (known := target.is_scored(trie.parent[flat])).any():
        log_probs = torch.where(known, target.log_probs(flat), log_probs)
    continued = torch.where(below_beam, log_probs.view(path.shape), 0).sum(2)
    return continued + beams.scores.gather(1, beam_above(nodes, beams, trie))
