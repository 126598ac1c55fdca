"""Drafters: who proposes the token tree of a round."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams, first_beams, next_beams
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ItemTrie


class Drafter(ABC):
    """Proposes nodes for the target to score in one call; a subclass is named by ``class_path`` in a config.

    Whatever is proposed, strict answers stay exact: the decoder adds the target's own beams, and a level counts only
    when the target has scored all of its beams.
    """

    needs_draft: bool = False

    @abstractmethod
    def propose(self, beams: Beams | None, trie: ItemTrie, draft: PrefixScorer | None, batch_size: int) -> Tensor:
        """Return nodes below ``beams``, ``[B, T]``, root-padded, each with all ancestors below its beam.

        Args:
            beams: the target's beams, best first; None before the first round, when only the root is known.
            trie: the catalog.
            draft: the draft model's scorer, if :attr:`needs_draft`.
            batch_size: number of requests ``B``.
        """


class NoDrafter(Drafter):
    """Proposes nothing: plain beam search, one target call a level."""

    def propose(self, beams: Beams | None, trie: ItemTrie, draft: PrefixScorer | None, batch_size: int) -> Tensor:
        """Return no node; see :meth:`Drafter.propose`."""
        return torch.zeros(batch_size, 0, dtype=torch.long, device=trie.token.device)


class TrieDrafter(Drafter):
    """Proposes all legal descendants, without any model.

    From the root: the first levels of the catalog, each whole or not at all, since nothing ranks them yet. Later: the
    descendants of the beams, level by level. Where these do not fit, the descendants of the best beams are taken.

    Args:
        max_nodes: nodes to propose a request and round at most.
    """

    def __init__(self, max_nodes: int = 256) -> None:
        require_at_least(1, max_nodes=max_nodes)
        self.max_nodes = max_nodes

    def propose(self, beams: Beams | None, trie: ItemTrie, draft: PrefixScorer | None, batch_size: int) -> Tensor:
        """Return descendants; see :meth:`Drafter.propose`."""
        if beams is None:
            end = max(start for start in trie.depth_start[1:-1] if start <= self.max_nodes + 1)
            return torch.arange(1, end, device=trie.token.device).expand(batch_size, -1)
        depth = int(trie.depth(beams.nodes[:, 0]).min())
        level, proposed, budget = beams.nodes, [beams.nodes[:, :0]], self.max_nodes
        for _ in range(depth + 1, trie.num_levels):
            if budget == 0:
                break
            level = trie.concatenated_children(level, budget)
            proposed.append(level)
            budget -= level.shape[1]
        return torch.cat(proposed, dim=1)


class ModelDrafter(Drafter):
    """Proposes the beams of a beam search by the draft model (AtSpeed, arXiv 2410.05165, section 3).

    It starts from the target's beams and their scores, and goes ``gamma`` levels down with ``draft_beams`` beams.

    Args:
        draft_beams: beam width N of the draft.
        gamma: levels to draft ahead.
    """

    needs_draft = True

    def __init__(self, draft_beams: int = 40, gamma: int = 3) -> None:
        require_at_least(1, draft_beams=draft_beams, gamma=gamma)
        self.draft_beams = draft_beams
        self.gamma = gamma

    def propose(self, beams: Beams | None, trie: ItemTrie, draft: PrefixScorer | None, batch_size: int) -> Tensor:
        """Return the draft's beams; see :meth:`Drafter.propose`."""
        if draft is None:
            raise ValueError("ModelDrafter needs a draft model; give the decoder one, or choose TrieDrafter")
        depth = 0 if beams is None else int(trie.depth(beams.nodes[:, 0]).min())
        proposed = [torch.zeros(batch_size, 0, dtype=torch.long, device=trie.token.device)]
        for _ in range(depth, min(depth + self.gamma, trie.num_levels - 1)):  # leaves need no scoring
            draft.score(proposed[0] if beams is None else beams.nodes)
            beams = (
                first_beams(draft, self.draft_beams) if beams is None else next_beams(draft, beams, self.draft_beams)
            )
            proposed.append(beams.nodes)
        return torch.cat(proposed, dim=1)
