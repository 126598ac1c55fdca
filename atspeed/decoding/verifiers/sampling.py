"""Verifiers that sample: K prefixes a level without replacement, instead of the K best."""

from abc import abstractmethod

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams, advance_beams, select_top
from atspeed.decoding.drafters.drafter import Proposal, Select
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie
from atspeed.decoding.verifiers.rejection import draw, places_of, take
from atspeed.decoding.verifiers.verifier import Verifier, is_ready


class SamplingVerifier(Verifier):
    """Draws the K prefixes of a level from the target's distribution over the children of the last level's.

    That distribution is the softmax of ``score / temperature`` over all legal children of the K prefixes together, and
    draws are without replacement. A level is accepted when the target has scored all K drawn prefixes, so proposals are
    worth the more the more of them are drawn; a subclass says how the two are coupled. What a drafter proposes without
    drawing it from the draft, as the trie drafter does, leaves the draws independent of the proposals, and so exact
    under both subclasses.

    Answers are ranked by their score under the target. All randomness comes from the generator given to the decoder.

    Args:
        temperature: of the target's and the draft's scores.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected more than 0 (StrictTopK takes the best)")
        self.temperature = temperature

    @abstractmethod
    def choose(
        self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, generator: torch.Generator | None
    ) -> Tensor:
        """Choose the prefixes of a level.

        Args:
            target: log-probabilities of the candidates, log p, ``[B, W]``, float64.
            draft: log-probabilities of the candidates, log q, ``[B, W]``, float64.
            drawn: candidates in the order in which the draft drew them, without replacement, ``[B, N]``, int64; -1
                where a drawn prefix is no candidate.
            num_beams: how many to choose, K.
            generator: of random numbers.

        Returns:
            distinct candidates, ``[B, K]``, int64; -1 where there are fewer.
        """

    def check(self, trie: ItemTrie) -> None:
        """Raise a ValueError if semantic IDs have different lengths."""
        if not trie.has_one_length:
            raise ValueError(
                f"{type(self).__name__} draws the prefixes of a level together, but the semantic IDs have different "
                "lengths; use StrictTopK"
            )

    def selection(self, generator: torch.Generator | None) -> Select:
        """Return how a draft model selects its candidates: it draws them without replacement."""

        def select(nodes: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
            places = draw(self._log_probs(scores), width, generator)
            return take(nodes, places, ROOT), take(scores, places, -torch.inf)

        return select

    def advance(
        self,
        beams: Beams,
        target: PrefixScorer,
        draft: PrefixScorer | None,
        proposal: Proposal,
        generator: torch.Generator | None,
    ) -> Beams:
        """Return the advanced beams; see :meth:`Verifier.advance`."""
        parents, parent_scores = beams.nodes, beams.scores  # what the draft drew the next level from
        nothing = beams.nodes[:, :0], beams.scores[:, :0]
        for level in range(target.trie.num_levels):
            ready = is_ready(beams, target)
            if not ready.any():
                break
            children, log_probs = target.children(beams.nodes)  # [B, K, C]
            scores = beams.scores[..., None] + log_probs
            drawn, drawn_scores = proposal.drawn[level] if level < len(proposal.drawn) else nothing
            draft_scores = torch.full_like(scores, -torch.inf)
            if draft is not None and drawn.shape[1]:
                is_parent = beams.nodes[..., None] == parents[:, None]  # [B, K, N]
                drafted_from = parent_scores[:, None].masked_fill(~is_parent, -torch.inf).amax(2)
                draft_scores = drafted_from[..., None] + draft.children(beams.nodes)[1]
            children, scores = children.flatten(1), scores.flatten(1)
            chosen = self.choose(
                self._log_probs(scores),
                self._log_probs(draft_scores.flatten(1)),
                places_of(drawn, children),
                beams.width,
                generator,
            )
            best_first = select_top(take(children, chosen, ROOT), take(scores, chosen, -torch.inf), beams.width)
            beams = advance_beams(beams, target.trie, *best_first).where(ready, beams)
            parents, parent_scores = drawn, drawn_scores
        return beams

    def _log_probs(self, scores: Tensor) -> Tensor:
        """Return the log-softmax of ``score / temperature`` in float64; minus infinity where nothing is possible."""
        log_probs = (scores.double() / self.temperature).log_softmax(1)
        return log_probs.masked_fill(scores == -torch.inf, -torch.inf)
