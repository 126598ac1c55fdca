"""What verifiers that sample share: K prefixes per level without replacement, instead of the K best."""

from abc import abstractmethod

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams, advance_beams, select_top
from atspeed.decoding.drafters.drafter import Proposal, Select
from atspeed.decoding.indexing import index_of
from atspeed.decoding.request_noise import RequestNoise, Use
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie
from atspeed.decoding.verifiers.rejection import draw, find, take
from atspeed.decoding.verifiers.verifier import Verifier, is_ready


class SamplingVerifier(Verifier):
    """Draws the K prefixes of a level from the target's distribution over the children of the last level's.

    That distribution is the softmax of ``score / temperature`` over all legal children of the K prefixes together, and
    draws are without replacement. A level is accepted when the target has scored all K drawn prefixes, so proposals pay
    off the more of them are drawn; a subclass says how the two are coupled. What a drafter proposes without drawing it
    from the draft, as the trie drafter does, leaves the draws independent of the proposals, and so exact under every
    subclass.

    Answers are ranked by their score under the target. All randomness comes from the seeds given to the
    decoder, and the answer of a seed does not depend on what shares the batch.

    Args:
        temperature: of the target's and the draft's scores.

    Raises:
        ValueError: if the temperature is not positive.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected more than 0 (StrictTopK takes the best)")
        self.temperature = temperature
        self.tolerance = None

    @abstractmethod
    def choose(self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, noise: RequestNoise) -> Tensor:
        """Choose the prefixes of a level.

        Args:
            target: log-probabilities of the candidates, log p, ``[B, W]``, float64.
            draft: log-probabilities of the candidates, log q, ``[B, W]``, float64.
            drawn: candidates in the order in which the draft drew them, without replacement, ``[B, N]``, int64; -1
                where a drawn prefix is no candidate.
            num_beams: how many to choose, K.
            noise: the random numbers of the candidates.

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

    def selection(self, seeds: Tensor) -> Select:
        """Return how a draft model selects its candidates: it draws them without replacement."""

        def select(nodes: Tensor, scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
            indices = draw(self._log_probs(scores), width, RequestNoise(seeds, nodes).of(Use.DRAFT))
            return take(nodes, indices, ROOT), take(scores, indices, -torch.inf)

        return select

    def advance(
        self,
        beams: Beams,
        target: PrefixScorer,
        draft: PrefixScorer | None,
        proposal: Proposal,
        seeds: Tensor,
    ) -> Beams:
        """Return the advanced beams; see :meth:`Verifier.advance`."""
        nothing = beams.nodes[:, :0], beams.scores[:, :0]
        drafted_from = beams.nodes, beams.scores  # the prefixes whose children the draft drew
        sizing = target.trie.sizing
        for level in range(target.trie.max_depth - sizing.least_depth):
            if not sizing.any(ready := is_ready(beams, target)):
                break
            drawn = proposal.drawn[level] if level < len(proposal.drawn) else nothing
            children, log_probs = target.children(beams.nodes, level)  # [B, K, C]
            scores = beams.scores[..., None] + log_probs
            draft_scores = torch.full_like(scores, -torch.inf)
            if draft is not None and drawn[0].shape[1]:
                drew_nothing = (drawn[0] == ROOT).all(1)[:, None, None]  # others of the batch may have
                draft_scores = _draft_scores(beams.nodes, draft, level, *drafted_from).masked_fill(
                    drew_nothing, -torch.inf
                )
            chosen = self.choose(
                self._log_probs(scores.flatten(1)),
                self._log_probs(draft_scores.flatten(1)),
                find(drawn[0], children.flatten(1)),
                beams.width,
                RequestNoise(seeds, children.flatten(1)),
            )
            chosen_nodes = take(children.flatten(1), chosen, ROOT)
            chosen_scores = take(scores.flatten(1), chosen, -torch.inf)
            best_first = select_top(chosen_nodes, chosen_scores, beams.width)
            beams = advance_beams(beams, target.trie, *best_first).where(ready, beams, sizing)
            drafted_from = drawn
        return beams._replace(loss_bound=torch.full_like(beams.loss_bound, torch.inf))  # nothing is certain

    def _log_probs(self, scores: Tensor) -> Tensor:
        """Return the log-softmax of ``score / temperature`` in float64; minus infinity where nothing is possible."""
        log_probs = (scores.double() / self.temperature).log_softmax(1)
        return log_probs.masked_fill(scores == -torch.inf, -torch.inf)


def _draft_scores(nodes: Tensor, draft: PrefixScorer, level: int, parents: Tensor, parent_scores: Tensor) -> Tensor:
    """Return the scores under the draft of the children of nodes; minus infinity where it did not draw from a node.

    Args:
        nodes: ``[B, K]``, int64.
        draft: the draft's scorer.
        level: how many levels below the beams of the round the nodes are.
        parents: the nodes whose children the draft drew, ``[B, N]``, int64.
        parent_scores: their scores under the draft, ``[B, N]``, float32.

    Returns:
        ``[B, K, C]``, float32.
    """
    index, is_parent = index_of(nodes, parents)
    scores = parent_scores.gather(1, index).masked_fill(~is_parent, -torch.inf)  # [B, K]
    return scores[..., None] + draft.children(nodes, level)[1]
