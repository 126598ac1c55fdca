"""Draft and target side by side, at every prefix of packed sequences."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from atspeed.alignment.sequences import LevelPrefixes
from atspeed.decoding import ROOT, ScoredPrefixes
from atspeed.decoding.indexing import index_of
from atspeed.losses import Prefixes


def compare(draft: ScoredPrefixes, target: ScoredPrefixes, levels: Sequence[LevelPrefixes]) -> Iterator[Prefixes]:
    """Put what both models say about the children of every prefix side by side, level by level.

    Args:
        draft: the draft's scores; every prefix of ``levels`` has to be scored.
        target: the target's, the same.
        levels: what :func:`pack` returned, from the root down; the last ones may be left out.

    Yields:
        what a loss compares, one record per level. A level's loss may be computed before the next record is made; then
        the gradients of the levels are summed in that order.
    """
    draft_scores = target_scores = torch.zeros_like(levels[0].nodes, dtype=torch.float32)  # [B, 1]: the root's
    for number, level in enumerate(levels):
        children, draft_log_probs = draft.children(level.nodes)  # [B, W, C]
        draft_log_probs = draft_log_probs.log_softmax(-1)
        target_log_probs = target.children(level.nodes)[1].log_softmax(-1)
        yield Prefixes(
            draft_log_probs=draft_log_probs,
            target_log_probs=target_log_probs,
            draft_scores=draft_scores,
            target_scores=target_scores,
            shares=level.shares,
            next_shares=level.next_shares(children),
            level=number,
            num_levels=draft.trie.num_levels,
        )
        if number + 1 < len(levels):
            next_nodes = levels[number + 1].nodes
            index, _ = index_of(next_nodes, children.flatten(1))  # [B, W of the next level]
            draft_scores = _extend(draft_scores, draft_log_probs, index, next_nodes == ROOT)
            target_scores = _extend(target_scores, target_log_probs, index, next_nodes == ROOT)


def _extend(scores: Tensor, child_log_probs: Tensor, index: Tensor, is_padding: Tensor) -> Tensor:
    """Return the scores of some children: the parent's plus that of the last code; 0 at padding.

    Args:
        scores: of the parents, ``[B, V]``, float32.
        child_log_probs: of their children, ``[B, V, C]``, float32.
        index: of the children in the flattened ``V · C``, ``[B, W]``, int64.
        is_padding: ``[B, W]``, bool.
    """
    return (scores[..., None] + child_log_probs).flatten(1).gather(1, index).masked_fill(is_padding, 0.0)
