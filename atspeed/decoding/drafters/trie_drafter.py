"""The catalog proposes."""

from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.cost import measure_budget
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select
from atspeed.decoding.drafters.frontier import beam_above, needs_scoring, widen
from atspeed.decoding.scorer import PrefixScorer


class TrieDrafter(Drafter):
    """Proposes all legal descendants of the beams, without any model.

    Level by level, as long as whole levels fit the node budget. Of the next level, if at least half of it fits, those
    nodes are proposed that would score best if all items below a beam were equally likely. A wider level is left out,
    and so is one from the root, where no beam has a score yet: guessing K beams from so little hardly ever succeeds.

    Args:
        max_nodes: nodes to propose a request and call at most, or ``auto``: the largest tree whose target call costs at
            most ``extra_cost`` more than a call for one node, measured once for a target on its device.
        extra_cost: what ``auto`` may cost, as a share of the smallest call.
    """

    def __init__(self, max_nodes: int | Literal["auto"] = 256, extra_cost: float = 0.5) -> None:
        if max_nodes != "auto":
            require_at_least(1, max_nodes=max_nodes)
        if extra_cost < 0:
            raise ValueError(f"extra_cost is {extra_cost}; expected 0 or more")
        self.max_nodes = max_nodes
        self.extra_cost = extra_cost
        self.budget = 1 if max_nodes == "auto" else max_nodes

    def prepare(self, target: PreTrainedModel) -> None:
        """Measure the budget if it is ``auto``."""
        if self.max_nodes == "auto":
            self.budget = measure_budget(target, self.extra_cost)

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return descendants; see :meth:`Drafter.propose`."""
        levels, (nodes, mask), left = self._whole_levels(beams, target)
        trie = target.trie
        half_fits = (trie.num_children[nodes] * mask).sum(1, keepdim=True) <= 2 * left
        mask = mask & half_fits & (beams.depth > 0)[:, None] & (trie.subtree_size[nodes] > 1)
        if mask.any():
            children = trie.children(nodes, mask)
            beam = beam_above(children.values, beams, trie)
            share = trie.num_items[children.values] / trie.num_items[beams.nodes].gather(1, beam)
            scores = beams.scores.gather(1, beam) + share.log()
            scores = scores.masked_fill(~needs_scoring(children.values, target), -torch.inf)
            chosen, scores = select_top(children.values, scores, min(self.budget, scores.shape[1]))
            levels.append(chosen * ((scores > -torch.inf).cumsum(1) <= left))
        return Proposal(torch.cat(levels, dim=1), [])

    def _whole_levels(self, beams: Beams, target: PrefixScorer) -> tuple[list[Tensor], tuple[Tensor, Tensor], Tensor]:
        """Take levels below the beams as long as they fit.

        Returns:
            the levels, ``[B, W]`` each, root-padded; the deepest level of each request (its beams if none fits) with
            its mask; and how many nodes are left of each budget, ``[B, 1]``.
        """
        trie = target.trie
        nodes, mask, levels = beams.nodes, beams.mask, [beams.nodes[:, :0]]
        left = torch.full_like(beams.depth, self.budget)[:, None]
        going = torch.ones_like(mask[:, :1])
        for _ in range(int(beams.depth.min()), trie.num_levels - 1):
            going &= (trie.num_children[nodes] * mask).sum(1, keepdim=True) <= left
            if not going.any():
                break
            children = trie.children(nodes, mask & going)
            wanted = needs_scoring(children.values, target)
            levels.append(children.values * wanted)
            left = left - wanted.sum(1, keepdim=True)
            missing = max(nodes.shape[1] - wanted.shape[1], 0), max(wanted.shape[1] - nodes.shape[1], 0)
            nodes = torch.where(going, widen(children.values, missing[0]), widen(nodes, missing[1]))
            mask = torch.where(going, widen(wanted, missing[0]), widen(mask, missing[1]))
        return levels, (nodes, mask), left
