"""Drafters: who proposes the token tree of a round."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.budget import measure_budget
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie

Select = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Candidate nodes and scores ``[B, W]`` and a width N → nodes and scores ``[B, N]``, as :func:`select_top`."""


class Proposal(NamedTuple):
    """What a drafter proposes in a round.

    Attributes:
        nodes: the token tree, ``[B, T]``, int64, root-padded; each node comes with its ancestors below the beams.
        drawn: for each level below the beams, the nodes that the draft selected and their scores under it, ``[B, N]``
            each, in the order of selection; empty where a drafter does not select by the draft's probabilities alone.
    """

    nodes: Tensor
    drawn: list[tuple[Tensor, Tensor]]


class Drafter(ABC):
    """Proposes nodes for the target to score in one call; a subclass is named by ``class_path`` in a config.

    Whatever is proposed, strict answers stay exact: the decoder adds the target's own beams, and a level counts only
    when the target has scored all of its beams.
    """

    needs_draft: bool = False

    def prepare(self, target: PreTrainedModel) -> None:  # noqa: B027 (most drafters have nothing to prepare)
        """Get ready to draft for a target; called once by the decoder."""

    @abstractmethod
    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return nodes below ``beams``; leaves, and nodes that are scored or not allowed, cost nothing.

        Args:
            beams: where the target's search stands; prefixes are best first under strict verification.
            target: the target's scorer, to look at: its trie and what a request allows.
            draft: the draft model's scorer, if :attr:`needs_draft`.
            select: how the draft's candidates are selected, which the verifier decides: the best, or at random.
        """


class NoDrafter(Drafter):
    """Proposes nothing: plain beam search, one target call a level."""

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return no node; see :meth:`Drafter.propose`."""
        return Proposal(beams.nodes[:, :0], [])


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
            beam = _beam_above(children.values, beams, trie)
            share = trie.num_items[children.values] / trie.num_items[beams.nodes].gather(1, beam)
            scores = beams.scores.gather(1, beam) + share.log()
            scores = scores.masked_fill(~_needs_scoring(children.values, target), -torch.inf)
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
            wanted = _needs_scoring(children.values, target)
            levels.append(children.values * wanted)
            left = left - wanted.sum(1, keepdim=True)
            missing = max(nodes.shape[1] - wanted.shape[1], 0), max(wanted.shape[1] - nodes.shape[1], 0)
            nodes = torch.where(going, _widen(children.values, missing[0]), _widen(nodes, missing[1]))
            mask = torch.where(going, _widen(wanted, missing[0]), _widen(mask, missing[1]))
        return levels, (nodes, mask), left


class HybridDrafter(TrieDrafter):
    """The trie takes the narrow levels, the draft model chooses in the wide one.

    Levels that fit the budget are proposed whole, as by :class:`TrieDrafter`. In the first level that does not fit, the
    draft ranks the prefixes (by the target's scores of the beams, continued by its own; one draft call), and the best
    come with their whole subtrees as far as the budget goes. Where fewer than K subtrees would fit, the prefixes come
    alone.

    Args:
        max_nodes: see :class:`TrieDrafter`.
        extra_cost: see :class:`TrieDrafter`.
    """

    needs_draft = True

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return whole levels and the draft's choice below; see :meth:`Drafter.propose`."""
        draft = _require(draft, self)
        trie = target.trie
        levels, (nodes, mask), left = self._whole_levels(beams, target)
        mask = mask & (trie.subtree_size[nodes] > 1)  # something below is left to score
        if not mask.any():
            return Proposal(torch.cat(levels, dim=1), [])
        draft.score(torch.cat([trie.path(beams.nodes).flatten(1), *levels], dim=1) * mask.any(1, keepdim=True))
        children, log_probs = draft.children(nodes)  # [B, W, C]
        scores = _draft_scores(nodes, beams, draft).masked_fill(~mask, -torch.inf)[..., None] + log_probs
        children, scores = children.flatten(1), scores.flatten(1)
        scores = scores.masked_fill(~_needs_scoring(children, target), -torch.inf)
        chosen, scores = select_top(children, scores, min(self.budget, children.shape[1]))
        mask = scores > -torch.inf
        fits = mask & ((trie.subtree_size[chosen] * mask).cumsum(1) <= left)
        closes = fits.sum(1, keepdim=True) >= beams.width
        levels.append(chosen * torch.where(closes, fits, mask & (mask.cumsum(1) <= left)))
        mask = fits & closes
        while mask.any():
            subtree = trie.children(chosen, mask)
            chosen, mask = subtree.values, _needs_scoring(subtree.values, target)
            levels.append(chosen * mask)
        return Proposal(torch.cat(levels, dim=1), [])


class ModelDrafter(Drafter):
    """Proposes the beams of a search by the draft model (AtSpeed, arXiv 2410.05165, section 3).

    It starts from the target's beams and their scores, and goes ``gamma`` levels down with ``draft_beams`` beams. Under
    sampling verification the beams of a level are drawn from the draft without replacement instead of being its best.

    Args:
        draft_beams: beam width N of the draft.
        gamma: levels to draft ahead.
    """

    needs_draft = True

    def __init__(self, draft_beams: int = 40, gamma: int = 3) -> None:
        require_at_least(1, draft_beams=draft_beams, gamma=gamma)
        self.draft_beams = draft_beams
        self.gamma = gamma

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return the draft's beams; see :meth:`Drafter.propose`."""
        draft = _require(draft, self)
        trie, nodes, scores, drawn = target.trie, beams.nodes, beams.scores, []
        depth = int(beams.depth.min())
        for level in range(min(self.gamma, trie.num_levels - 1 - depth)):
            draft.score(trie.path(nodes).flatten(1) if level == 0 else nodes)
            children, log_probs = draft.children(nodes)  # [B, N, C]
            child_scores = (scores[..., None] + log_probs).masked_fill(trie.is_leaf(children), -torch.inf)
            nodes, scores = select(children.flatten(1), child_scores.flatten(1), self.draft_beams)
            drawn.append((nodes, scores))
        return Proposal(torch.cat([beams.nodes[:, :0], *(level for level, _ in drawn)], dim=1), drawn)


def _require(draft: PrefixScorer | None, drafter: Drafter) -> PrefixScorer:
    if draft is None:
        raise ValueError(f"{type(drafter).__name__} needs a draft model; give the decoder one, or choose TrieDrafter")
    return draft


def _needs_scoring(nodes: Tensor, target: PrefixScorer) -> Tensor:
    """Return which nodes a target call would score: inner nodes that the request allows; ``[B, W]``, bool."""
    needed = (nodes != ROOT) & ~target.trie.is_leaf(nodes)
    return needed if target.allowed is None else needed & target.allowed.gather(1, nodes)


def _beam_above(nodes: Tensor, beams: Beams, trie: ItemTrie) -> Tensor:
    """Return which beam each node descends from (or is), ``[B, W]`` → its place, the same shape."""
    for _ in range(trie.num_levels - 1):
        nodes = torch.where(trie.depth(nodes) > beams.depth[:, None], trie.parent[nodes], nodes)
    return ((nodes[..., None] == beams.nodes[:, None]) & beams.mask[:, None]).max(2).indices


def _draft_scores(nodes: Tensor, beams: Beams, draft: PrefixScorer) -> Tensor:
    """Return the scores of descendants of the beams: the beam's, continued by the draft; ``[B, W]``."""
    below = draft.trie.depth(draft.trie.path(nodes)) > beams.depth[:, None, None]  # [B, W, L], what follows the beam
    log_probs = draft.log_probs(draft.trie.path(nodes).flatten(1)).view(below.shape)
    scores = torch.where(below, log_probs, 0).sum(2)
    return scores + beams.scores.gather(1, _beam_above(nodes, beams, draft.trie))


def _widen(values: Tensor, missing: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, missing)) if missing else values
