"""What drafters share."""

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams
from atspeed.decoding.drafters.drafter import Drafter
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie


def require_draft(draft: PrefixScorer | None, drafter: Drafter) -> PrefixScorer:
    if draft is None:
        raise ValueError(f"{type(drafter).__name__} needs a draft model; give the decoder one, or choose TrieDrafter")
    return draft


def needs_scoring(nodes: Tensor, target: PrefixScorer) -> Tensor:
    """Return which nodes a target call would score: inner nodes that the request allows; ``[B, W]``, bool."""
    needed = (nodes != ROOT) & ~target.trie.is_leaf(nodes)
    return needed if target.allowed is None else needed & target.allowed.gather(1, nodes)


def beam_above(nodes: Tensor, beams: Beams, trie: ItemTrie) -> Tensor:
    """Return which beam each node descends from (or is), ``[B, W]`` → its place, the same shape."""
    for _ in range(trie.num_levels - 1):
        nodes = torch.where(trie.depth(nodes) > beams.depth[:, None], trie.parent[nodes], nodes)
    return ((nodes[..., None] == beams.nodes[:, None]) & beams.mask[:, None]).max(2).indices


def draft_scores_of(nodes: Tensor, beams: Beams, draft: PrefixScorer) -> Tensor:
    """Return the scores of descendants of the beams: the beam's, continued by the draft; ``[B, W]``."""
    below = draft.trie.depth(draft.trie.path(nodes)) > beams.depth[:, None, None]  # [B, W, L], what follows the beam
    log_probs = draft.log_probs(draft.trie.path(nodes).flatten(1)).view(below.shape)
    scores = torch.where(below, log_probs, 0).sum(2)
    return scores + beams.scores.gather(1, beam_above(nodes, beams, draft.trie))


def widen(values: Tensor, missing: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, missing)) if missing else values
