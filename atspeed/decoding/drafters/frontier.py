"""Complete levels below the beams, as far as a node budget goes: where two drafters start from."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams
from atspeed.decoding.cost import measure_budget
from atspeed.decoding.indexing import index_of
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie

MaxNodes = int | Literal["auto"]


class Frontier(NamedTuple):
    """The deepest complete level of each request, the beams themselves if none fits.

    Attributes:
        nodes: ``[B, W]``, int64.
        mask: True where there is a node that a target call would score, ``[B, W]``, bool.
        budget: nodes that a request may still propose, ``[B, 1]``, int64.
    """

    nodes: Tensor
    mask: Tensor
    budget: Tensor


def check_budget(max_nodes: MaxNodes, extra_cost: float) -> None:
    """Raise ``ValueError`` if a drafter's node budget is out of range."""
    if max_nodes != "auto":
        require_at_least(1, max_nodes=max_nodes)
    require_at_least(0, extra_cost=extra_cost)


def node_budget(max_nodes: MaxNodes, extra_cost: float, target: PreTrainedModel) -> int:
    """Return how many nodes to propose per request and call; ``auto`` is measured, once for a target."""
    return measure_budget(target, extra_cost) if max_nodes == "auto" else max_nodes


def expand_complete_levels(beams: Beams, target: PrefixScorer, max_nodes: int) -> tuple[list[Tensor], Frontier]:
    """Take levels below the beams as long as they fit a budget, each request by itself.

    Args:
        beams: where the target's search stands.
        target: the target's scorer.
        max_nodes: nodes per request.

    Returns:
        the levels, ``[B, W]`` each, int64, root-padded, the first one of width 0; and the frontier.
    """
    trie = target.trie
    frontier = Frontier(beams.nodes, beams.mask, torch.full_like(beams.depth, max_nodes)[:, None])
    levels = [beams.nodes[:, :0]]
    fits = torch.ones_like(frontier.mask[:, :1])  # [B, 1]
    depth = trie.sizing.least(beams.depth)
    if depth == 0 and trie.num_first > max_nodes:  # as below, but known without asking
        return levels, frontier
    for _ in range(depth, trie.num_calls - 1):
        fits &= (trie.num_children[frontier.nodes] * frontier.mask).sum(1, keepdim=True) <= frontier.budget
        if not trie.sizing.any(fits):
            break
        children = trie.children(frontier.nodes, frontier.mask & fits, limit=max_nodes).values
        wanted = needs_scoring(children, target)
        levels.append(children * wanted)
        frontier = Frontier(
            _where(fits, children, frontier.nodes),
            _where(fits, wanted, frontier.mask),
            frontier.budget - wanted.sum(1, keepdim=True),
        )
    return levels, frontier


def needs_scoring(nodes: Tensor, target: PrefixScorer) -> Tensor:
    """Return which nodes a target call would score: inner nodes that the request allows; ``[B, W]``, bool."""
    needed = (nodes != ROOT) & ~target.trie.is_leaf(nodes)
    return needed if target.allowed is None else needed & target.allowed.gather(1, nodes)


def beam_above(nodes: Tensor, beams: Beams, trie: ItemTrie) -> Tensor:
    """Return the index of the beam that each node descends from (or is), ``[B, W]``, int64; 0 for padding."""
    for _ in range(trie.max_depth - 1):
        nodes = torch.where(trie.depth(nodes) > beams.depth[:, None], trie.parent[nodes], nodes)
    return index_of(nodes, beams.nodes)[0]


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return the new values in some rows ``[B, 1]`` and the old ones elsewhere, as wide as the wider of the two."""
    width = max(new.shape[1], old.shape[1])
    new, old = (torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in (new, old))
    return torch.where(rows, new, old)
