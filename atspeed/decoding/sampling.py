"""Verifiers that sample: K prefixes a level without replacement, instead of the K best."""

from abc import abstractmethod

import torch
from torch import Tensor

from atspeed.decoding.beams import Beams, advance_beams, select_top
from atspeed.decoding.drafters import Proposal, Select
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie
from atspeed.decoding.verifiers import Verifier, is_ready


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
            return _take(nodes, places, ROOT), _take(scores, places, -torch.inf)

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
                _places(drawn, children),
                beams.width,
                generator,
            )
            best_first = select_top(_take(children, chosen, ROOT), _take(scores, chosen, -torch.inf), beams.width)
            beams = advance_beams(beams, target.trie, *best_first).where(ready, beams)
            parents, parent_scores = drawn, drawn_scores
        return beams

    def _log_probs(self, scores: Tensor) -> Tensor:
        """Return the log-softmax of ``score / temperature`` in float64; minus infinity where nothing is possible."""
        log_probs = (scores.double() / self.temperature).log_softmax(1)
        return log_probs.masked_fill(scores == -torch.inf, -torch.inf)


class LosslessSampling(SamplingVerifier):
    """Recursive rejection sampling without replacement (RSD, arXiv 2402.14160): the law is exactly the target's.

    Proposals are taken in the order in which the draft drew them. One is accepted with probability ``min(1, p / q)``;
    after a rejection p becomes the residual ``max(0, p − q)``, and q goes on without the proposal, renormalised. After
    an acceptance p starts anew, without what has been chosen. What the proposals do not give is drawn from p.
    """

    name = "lossless"

    def choose(
        self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, generator: torch.Generator | None
    ) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        residual, proposed = target.exp(), draft.exp()
        thresholds = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=target.dtype)
        accepted = torch.full_like(drawn, -1)
        for turn, (place, threshold) in enumerate(zip(drawn.T, thresholds.T, strict=True)):
            unfinished = (accepted >= 0).sum(1) < num_beams
            if not unfinished.any():
                break
            tested = unfinished & (place >= 0)
            at = place.clamp(min=0)[:, None]
            residual, proposed = _normalised(residual), _normalised(proposed)
            accepts = tested & (threshold * proposed.gather(1, at)[:, 0] < residual.gather(1, at)[:, 0])
            accepted[:, turn] = torch.where(accepts, place, -1)
            target = target.scatter(1, at, target.gather(1, at).masked_fill(accepts[:, None], -torch.inf))
            rest = torch.where(accepts[:, None], target.exp(), (residual - proposed).clamp(min=0))
            residual = torch.where(tested[:, None], rest, residual)
            proposed = proposed.scatter(1, at, proposed.gather(1, at).masked_fill(tested[:, None], 0))
        # A rejection leaves some residual; where rounding left none, p itself is what is left.
        residual = torch.where(residual.sum(1, keepdim=True) > 0, residual.log(), target)
        following = draw(residual, 1, generator)
        target = target.scatter(1, following.clamp(min=0), -torch.inf)
        return _first_valid(torch.cat([accepted, following, draw(target, num_beams, generator)], dim=1), num_beams)


class RelaxedSampling(LosslessSampling):
    """Relaxed sampling verification (AtSpeed, arXiv 2410.05165, Algorithm 2): faster, and close to the target's law.

    Each proposal is accepted with probability ``min(1, p / q)``, by itself; the first K of the accepted are kept. A
    shortfall is drawn without replacement from the residual ``max(0, p − q)``, and from p where the residual has too
    few candidates. With more proposals than K, prefixes that the target likes better than the draft come up too seldom
    (docs/decoding.md has the distance). For K = 1 that would be a needless loss: there it is
    :class:`LosslessSampling`, which is exact.
    """

    name = "relaxed"

    def choose(
        self, target: Tensor, draft: Tensor, drawn: Tensor, num_beams: int, generator: torch.Generator | None
    ) -> Tensor:
        """Choose the prefixes of a level; see :meth:`SamplingVerifier.choose`."""
        if num_beams == 1:
            return super().choose(target, draft, drawn, num_beams, generator)
        thresholds = torch.rand(drawn.shape, generator=generator, device=drawn.device, dtype=target.dtype)
        at = drawn.clamp(min=0)
        accepts = (drawn >= 0) & (thresholds.log() + draft.gather(1, at) < target.gather(1, at))
        accepted = torch.where(accepts, drawn, -1)
        residual = _without((target.exp() - draft.exp()).clamp(min=0).log(), accepted)
        following = draw(residual, num_beams, generator)
        rest = draw(_without(_without(target, accepted), following), num_beams, generator)
        return _first_valid(torch.cat([accepted, following, rest], dim=1), num_beams)


def draw(log_probs: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
    """Draw candidates without replacement, by the Gumbel-top-k trick, which stays finite at any temperature.

    Args:
        log_probs: of the candidates, up to a constant a row, ``[B, W]``.
        width: how many to draw.
        generator: of random numbers.

    Returns:
        places of the drawn candidates in the order of the draws, ``[B, width]``; -1 where there are fewer.
    """
    noise = torch.empty_like(log_probs).exponential_(generator=generator).log()
    keys, places = (log_probs - noise).topk(min(width, log_probs.shape[1]), dim=1)
    places = places.masked_fill(keys == -torch.inf, -1)
    return torch.nn.functional.pad(places, (0, width - places.shape[1]), value=-1)


def _places(nodes: Tensor, candidates: Tensor) -> Tensor:
    """Return where each of the nodes ``[B, N]`` stands among distinct candidates ``[B, W]``; -1 if it does not."""
    order = candidates.sort(1)
    place = torch.searchsorted(order.values, nodes.contiguous()).clamp(max=candidates.shape[1] - 1)
    found = (order.values.gather(1, place) == nodes) & (nodes != ROOT)
    return torch.where(found, order.indices.gather(1, place), -1)


def _take(values: Tensor, places: Tensor, missing: float) -> Tensor:
    return values.gather(1, places.clamp(min=0)).masked_fill(places < 0, missing)


def _without(log_probs: Tensor, places: Tensor) -> Tensor:
    """Return log-probabilities without the candidates at ``places``; -1 takes none out."""
    padded = torch.nn.functional.pad(log_probs, (0, 1))  # -1 meets the padding
    return padded.scatter(1, places % padded.shape[1], -torch.inf)[:, :-1]


def _first_valid(places: Tensor, count: int) -> Tensor:
    """Return the first ``count`` places that are not -1."""
    order = (places < 0).byte().argsort(dim=1, stable=True)[:, :count]
    return places.gather(1, order)


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
