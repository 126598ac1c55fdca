"""Spends tokens by the price of a call."""

import logging
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.cost import captured_cost, measured_cost
from atspeed.decoding.cost.timed_calls import CONTEXT
from atspeed.decoding.drafters.calibration import SPARE, kept_calibration
from atspeed.decoding.drafters.drafted_scores import score_children
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
from atspeed.decoding.drafters.plan import Array, Outlook, Plan, make_plan
from atspeed.decoding.drafters.planned_drafter import PlannedDrafter, planned_widths
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT, ItemTrie

log = logging.getLogger(__name__)

PROMPT_STEP = 32  # prompts are counted in multiples of it, so that there are few plans


class Choice(NamedTuple):
    """The draft's choice at a level, for each request.

    Attributes:
        nodes: ``[B, N]``, int64, root-padded.
        scores: under the draft, ``[B, N]``, float32; minus infinity at padding.
        width: number of nodes, ``[B, 1]``, int64.
        coverage: probability that they hold the target's beams, if those of the levels above are proposed, ``[B, 1]``.
    """

    nodes: Tensor
    scores: Tensor
    width: Array
    coverage: Array

    @classmethod
    def nothing(cls, nodes: Tensor) -> "Choice":
        """Return the choice of no node, for as many requests as the nodes ``[B, W]`` are of."""
        none = np.zeros((len(nodes), 1), dtype=np.int64)
        return cls(nodes[:, :0], nodes[:, :0].float(), none, none.astype(float))

    @classmethod
    def first(cls, nodes: Tensor, scores: Tensor, width: Array, coverage: Array) -> "Choice":
        """Return the choice of the first ``width`` of some nodes."""
        most = int(width.max())
        nodes, scores = nodes[:, :most], scores[:, :most]
        if (width < most).any():
            is_out = torch.arange(nodes.shape[1], device=nodes.device) >= torch.from_numpy(width).to(nodes.device)
            nodes, scores = nodes.masked_fill(is_out, ROOT), scores.masked_fill(is_out, -torch.inf)
        return cls(nodes, scores, width, coverage * (width > 0))


class PriceAwareDrafter(Drafter):
    r"""Proposes as many nodes as are expected to save more time than they cost.

    It goes down level by level. A level of n nodes saves a target call if the n nodes hold all K beams of the target,
    and the levels above do, too. So the width n maximises ::

        P(covered above) · [ P(n) · (a call for K nodes + what the levels below are worth)
                             + (1 - P(n)) · (a call for K nodes - a call for the beams that are not among the n) ]
        - (the target's call with n more nodes - the call without them)

    over all widths, 0 included: P(n) is S-shaped in n, so going on node by node until the next one does not pay would
    stop at 0. Seconds come from the :class:`CostModel` of the target. A level is taken

    - complete where that is best: P is 1 then, and no draft call is needed (a narrow level of the catalog),
    - by the draft's ranking where its expected gain, its call included, is positive and larger. Each candidate is a
      beam of the target with a probability that follows from its gap to the draft's K-th best candidate
      (:class:`LevelCalibration`), and P(n) is the probability that no beam is left out. Where the target has scored a
      prefix already, its log-probabilities count instead of the draft's,
    - not at all otherwise; then the round is over.

    Where a level may miss beams of little mass (:class:`BoundedTopK`), P(n) is the probability that at most as much
    is missing. Without a calibration for the target no level is expected to be covered by the draft's choice, and
    complete levels are all that is proposed.

    Under strict verification, prices are those of the batch at hand, and a level is proposed for all requests that have
    one left or for none: as long as one of them needs the call, the others save little. Otherwise answers depend on
    what is proposed, and must not depend on the batch: prices are those of ``batch_size`` requests. Under sampling,
    widths must not depend on draws: they are the best fixed ones.

    Args:
        batch_size: requests of a batch, as it is expected; not used under strict verification.
    """

    needs_draft = True
    needs_cost = True

    def __init__(self, batch_size: int = 1) -> None:
        require_at_least(1, batch_size=batch_size)
        self.batch_size = batch_size

    def prepare(self, target: PreTrainedModel, draft: PreTrainedModel | None, tolerance: float | None) -> None:
        """Look up what calls cost, and the draft's calibration; see :meth:`Drafter.prepare`."""
        draft = require_draft(draft, self)
        self._models = target, draft
        self._target_cost, self._draft_cost = measured_cost(target), measured_cost(draft)
        self._calibration = kept_calibration(draft)
        self._tolerance = tolerance
        self._plans: dict[tuple[int, int, int], Plan] = {}
        if self._calibration is None:
            log.info(
                "the draft has no calibration for this target, so %s proposes complete levels only; "
                "make one with: python -m atspeed tune",
                type(self).__name__,
            )

    def with_fixed_widths(self, num_beams: int, batch_size: int, prompt_tokens: int, trie: ItemTrie) -> Drafter:
        """Return a drafter of the widths that are best on average; see :meth:`Drafter.with_fixed_widths`."""
        target, draft = self._models
        plan = make_plan(
            captured_cost(target),
            captured_cost(draft),
            self._calibration,
            num_beams,
            trie.num_levels,
            batch_size if self._tolerance == 0 else self.batch_size,
            prompt_tokens if self._tolerance == 0 else CONTEXT,
            replayed=target.device.type == "cuda",
        )
        num_nodes = [end - begin for begin, end in pairwise(trie.depth_start[1:])]
        return PlannedDrafter(planned_widths(plan, num_nodes), target.device)

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return the nodes that are expected to save more than they cost; see :meth:`Drafter.propose`."""
        draft = require_draft(draft, self)
        plan, trie, samples = self._plan(beams, target), target.trie, self._tolerance is None
        depth = beams.depth.cpu().numpy()
        nodes, mask = beams.nodes, beams.mask
        scores: Tensor | None = beams.scores
        pays_up_to = plan.pays_up_to[depth]  # [B]; where calls are cheap, mostly nothing pays
        if not pays_up_to.any():
            return Proposal(nodes[:, :0], [])
        num_children = count_inner_children(nodes, mask, trie)
        if (num_children[:, 0] > pays_up_to).all():
            return Proposal(nodes[:, :0], [])
        tokens, covered = plan.tokens[depth], np.ones((len(depth), 1))  # [B, 1]
        took_all = covered > 0
        levels, drawn = [nodes[:, :0]], []
        for ahead in range(trie.num_levels - 1 - int(depth.min())):
            num_children = num_children * (depth[:, None] + ahead < trie.num_levels - 1)  # last codes are not proposed
            outlook = plan.outlook(depth, ahead)
            takes_all, takes_best = plan.decide(outlook, tokens, covered, num_children)
            if self._tolerance == 0 and ((num_children > 0) & ~takes_all & ~takes_best).any():
                break  # the batch needs the call that some of its requests could do without
            if samples and ahead:  # nothing may depend on what was drawn at a level above
                takes_all, takes_best = takes_all & took_all, takes_best & ~took_all
            if not (takes_all | takes_best).any():
                break
            took_all, complete, choice = takes_all, nodes[:, :0], Choice.nothing(nodes)
            if takes_all.any():
                complete = trie.children(nodes, mask & _to(takes_all, mask)).values
            if takes_best.any():
                known = None if samples else target
                candidates = score_children(nodes, mask & _to(takes_best, mask), scores, beams, known, draft)
                if samples:
                    choice = draw_planned(*candidates, plan, outlook, tokens, covered, select)
                else:
                    choice = choose_width(*candidates, plan, outlook, tokens, covered, self._tolerance or 0.0)
            levels.append(torch.cat([complete, choice.nodes], dim=1))
            drawn.append((choice.nodes, choice.scores))
            nodes, mask = levels[-1], levels[-1] != ROOT
            scores = None if takes_all.any() else choice.scores
            tokens = tokens + np.where(takes_all, num_children, choice.width)
            covered = covered * np.where(takes_all, 1.0, choice.coverage)
            num_children = count_inner_children(nodes, mask, trie)
        return Proposal(torch.cat(levels, dim=1), drawn if samples else [])

    def _plan(self, beams: Beams, target: PrefixScorer) -> Plan:
        """Return the plan for the batch at hand, or, where answers would depend on it, for the configured one."""
        batch_size, prompt_tokens = self.batch_size, CONTEXT
        if self._tolerance == 0:
            batch_size = len(beams.nodes)
            prompt_tokens = -(-target.prompts.shape[1] // PROMPT_STEP) * PROMPT_STEP
        key = beams.width, batch_size, prompt_tokens
        if key not in self._plans:
            self._plans[key] = make_plan(
                self._target_cost,
                self._draft_cost,
                self._calibration,
                beams.width,
                target.trie.num_levels,
                batch_size,
                prompt_tokens,
            )
        return self._plans[key]


def count_inner_children(nodes: Tensor, mask: Tensor, trie: ItemTrie) -> Array:
    """Return how many children the nodes of each request have that lead further, ``[B, W] → [B, 1]``, int64.

    Leaves are counted as well where a node has both, which happens with semantic IDs of different lengths only.
    """
    leads_on = mask & (trie.leads_on(nodes))
    return (trie.num_children[nodes] * leads_on).sum(1, keepdim=True).cpu().numpy()


def choose_width(
    nodes: Tensor, scores: Tensor, plan: Plan, outlook: Outlook, tokens: Array, covered: Array, tolerance: float
) -> Choice:
    """Choose the number of the best candidates that is expected to save most, 0 or more.

    Args:
        nodes: candidates, ``[B, W]``, int64.
        scores: minus infinity at padding, ``[B, W]``, float32.
        plan: the prices.
        outlook: of the level.
        tokens: of the target's call so far, ``[B, 1]``.
        covered: probability that the beams of the levels above are proposed, ``[B, 1]``.
        tolerance: share of the level's mass that may be missing.
    """
    num_beams = plan.num_beams
    best, best_scores = select_top(nodes, scores, max(num_beams, min(num_beams + SPARE[-1], scores.shape[1])))
    threshold = best_scores[
        :, num_beams - 1 : num_beams
    ]  # minus infinity if there are fewer candidates: all are beams then
    total = beam_odds(scores, threshold, outlook).sum(1, keepdim=True).cpu().numpy()
    odds = beam_odds(best_scores, threshold, outlook).double().cpu().numpy()
    share_found = _from_zero(np.minimum(odds.cumsum(1) / np.maximum(total, 1e-9), 1.0))  # of K, [B, N + 1]
    coverage = share_found**num_beams
    if tolerance:  # beams may be missing as long as their mass is small; their number is Poisson distributed
        values = best_scores.double().cpu().numpy()
        mass = odds * np.exp(values - np.logaddexp.reduce(values[:, :num_beams], axis=1, keepdims=True))
        mass_missing = np.maximum(mass.sum(1, keepdims=True) - _from_zero(mass.cumsum(1)), 1e-9)
        allowed = tolerance * num_beams * (1 - share_found) / mass_missing
        rate = -np.log(np.maximum(coverage, 1e-300))
        coverage = torch.special.gammaincc(torch.from_numpy(1 + allowed), torch.from_numpy(rate)).numpy()
    widths = np.broadcast_to(np.arange(coverage.shape[1]), coverage.shape)
    gain = plan.gain(outlook, tokens, covered, widths, coverage, num_beams * share_found)
    width = gain.argmax(1)[:, None]
    return Choice.first(best, best_scores, width, np.take_along_axis(coverage, width, axis=1))


def beam_odds(scores: Tensor, threshold: Tensor, outlook: Outlook) -> Tensor:
    """Return the probability that each candidate is one of the target's K beams, ``[B, N]``, float32.

    Args:
        scores: of the candidates, minus infinity at padding, ``[B, N]``, float32.
        threshold: the K-th best score, minus infinity with fewer candidates: all are beams then, ``[B, 1]``, float32.
        outlook: of the level.
    """
    intercept, slope = (torch.from_numpy(part).to(scores) for part in (outlook.intercept, outlook.slope))
    odds = (intercept + slope * (scores - threshold)).sigmoid().where(threshold > -torch.inf, 1.0)
    return odds.masked_fill(scores == -torch.inf, 0.0)


def draw_planned(
    nodes: Tensor, scores: Tensor, plan: Plan, outlook: Outlook, tokens: Array, covered: Array, select: Select
) -> Choice:
    """Draw as many candidates as the best fixed width says; arguments as of :func:`choose_width`.

    ``select`` draws without replacement, so that the first n of more nodes are a draw of n.
    """
    best = plan.expected_gain(outlook, tokens, covered).argmax(1)[:, None]
    width = np.take_along_axis(outlook.widths, best, axis=1)
    drawn = select(nodes, scores, int(width.max()))
    return Choice.first(*drawn, width, np.take_along_axis(outlook.coverage, best, axis=1))


def _from_zero(values: Array) -> Array:
    """Return ``[B, N]`` with a column of zeros before the first."""
    return np.pad(values, ((0, 0), (1, 0)))


def _to(choice: Array, mask: Tensor) -> Tensor:
    """Return a boolean per request, ``[B, 1]``, on the device of a mask."""
    return torch.from_numpy(choice).to(mask.device)
