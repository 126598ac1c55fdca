"""Spends tokens by the price of a call."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from atspeed.checks import require_at_least
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.cost import measured_cost
from atspeed.decoding.cost.timed_calls import CONTEXT
from atspeed.decoding.drafters.calibration import SPARE, kept_calibration
from atspeed.decoding.drafters.drafted_scores import score_children
from atspeed.decoding.drafters.drafter import Drafter, Proposal, Select, require_draft
from atspeed.decoding.drafters.plan import Outlook, Plan, make_plan
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ROOT

log = logging.getLogger(__name__)

PROMPT_STEP = 16  # prompts are counted in multiples of it, so that there are few plans


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
    width: Tensor
    coverage: Tensor


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

    Under strict verification, prices are those of the batch at hand. Otherwise answers depend on what is proposed, and
    must not depend on the batch: prices are those of ``batch_size`` requests. Under sampling, widths must not depend on
    draws: they are the best fixed ones.

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

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        """Return the nodes that are expected to save more than they cost; see :meth:`Drafter.propose`."""
        draft = require_draft(draft, self)
        plan, trie, samples = self._plan(beams, target), target.trie, self._tolerance is None
        nodes, mask, tokens = beams.nodes, beams.mask, plan.tokens[beams.depth]  # [B, K], [B, K], [B, 1]
        covered = torch.ones_like(tokens, dtype=torch.float32)
        took_all = torch.ones_like(tokens, dtype=torch.bool)
        levels, drawn = [nodes[:, :0]], []
        for ahead in range(trie.num_levels - 1 - int(beams.depth.min())):
            outlook = plan.outlook(beams.depth, ahead)
            num_children = (trie.num_children[nodes] * mask).sum(1, keepdim=True)
            possible = (beams.depth + ahead < trie.num_levels - 1)[:, None] & (num_children > 0)
            gain_of_best = plan.expected_gain(outlook, tokens, covered).amax(1, keepdim=True)
            gain_of_all = plan.gain(outlook, tokens, covered, num_children, 1.0, plan.num_beams)
            takes_all = possible & (gain_of_all > 0) & (gain_of_all >= gain_of_best)  # [B, 1]
            takes_best = possible & (gain_of_best > 0) & ~takes_all
            if samples and ahead:  # nothing may depend on what was drawn at a level above
                takes_all, takes_best = takes_all & took_all, takes_best & ~took_all
            if not (takes_all | takes_best).any():
                break
            parents, took_all = nodes, takes_all
            nodes = trie.children(parents, mask & takes_all).values
            width, coverage = num_children * takes_all, takes_all.float()
            chosen, scores = nodes[:, :0], covered[:, :0]
            if takes_best.any():
                candidates = score_children(parents, mask & takes_best, beams, None if samples else target, draft)
                if samples:
                    choice = draw_planned(*candidates, plan, outlook, tokens, covered, select)
                else:
                    choice = choose_width(*candidates, plan, outlook, tokens, covered, self._tolerance or 0.0)
                chosen, scores = choice.nodes, choice.scores
                nodes = torch.cat([nodes, chosen], dim=1)
                width = width.where(takes_all, choice.width)
                coverage = coverage.where(takes_all, choice.coverage)
            drawn.append((chosen, scores))
            levels.append(nodes)
            mask = nodes != ROOT
            tokens, covered = tokens + width, covered * coverage
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
                beams.nodes.device,
            )
        return self._plans[key]


def choose_width(
    nodes: Tensor, scores: Tensor, plan: Plan, outlook: Outlook, tokens: Tensor, covered: Tensor, tolerance: float
) -> Choice:
    """Choose the number of the best candidates that is expected to save most, 0 or more.

    Args:
        nodes: candidates, ``[B, W]``, int64.
        scores: minus infinity at padding, ``[B, W]``, float32.
        plan: the prices.
        outlook: of the level.
        tokens: of the target's call so far, ``[B, 1]``, int64.
        covered: probability that the beams of the levels above are proposed, ``[B, 1]``.
        tolerance: share of the level's mass that may be missing.
    """
    num_beams, all_scores = plan.num_beams, scores
    nodes, scores = select_top(nodes, scores, max(num_beams, min(num_beams + SPARE[-1], scores.shape[1])))
    threshold = scores[:, num_beams - 1 : num_beams]
    odds = beam_odds(scores, threshold, outlook)  # [B, N]
    share_found = odds.cumsum(1) / beam_odds(all_scores, threshold, outlook).sum(1, keepdim=True).clamp(min=1e-9)
    share_found = pad(share_found.clamp(max=1), (1, 0))  # of the K beams, among the best 0, 1, … N
    coverage = share_found**num_beams
    if tolerance:  # beams may be missing as long as their mass is small; their number is Poisson distributed
        mass = odds * (scores - scores[:, :num_beams].logsumexp(1, keepdim=True)).exp()
        mass_missing = pad(mass.flip(1).cumsum(1).flip(1), (0, 1)).clamp(min=1e-9)
        num_missing = num_beams * (1 - share_found)
        coverage = torch.special.gammaincc(1 + tolerance * num_missing / mass_missing, -coverage.log())
    widths = torch.arange(coverage.shape[1], device=nodes.device).expand_as(coverage)
    gain = plan.gain(outlook, tokens, covered, widths, coverage, num_beams * share_found)
    width = gain.argmax(1, keepdim=True)
    nodes, scores = nodes[:, : int(width.max())], scores[:, : int(width.max())]
    inside = widths[:, : nodes.shape[1]] < width
    return Choice(
        nodes * inside, scores.masked_fill(~inside, -torch.inf), width, coverage.gather(1, width) * (width > 0)
    )


def beam_odds(scores: Tensor, threshold: Tensor, outlook: Outlook) -> Tensor:
    """Return the probability that each candidate is one of the target's K beams, ``[B, N]``.

    Args:
        scores: of the candidates, minus infinity at padding, ``[B, N]``, float32.
        threshold: the K-th best score, minus infinity if there are fewer candidates, ``[B, 1]``, float32.
        outlook: of the level.
    """
    odds = (outlook.intercept + outlook.slope * (scores - threshold)).sigmoid().where(threshold > -torch.inf, 1.0)
    return odds.masked_fill(scores == -torch.inf, 0.0)


def draw_planned(
    nodes: Tensor, scores: Tensor, plan: Plan, outlook: Outlook, tokens: Tensor, covered: Tensor, select: Select
) -> Choice:
    """Draw as many candidates as the best fixed width says; arguments as of :func:`choose_width`.

    ``select`` draws without replacement, so that the first n of more nodes are a draw of n.
    """
    best = plan.expected_gain(outlook, tokens, covered).argmax(1, keepdim=True)
    width = outlook.widths.gather(1, best)
    nodes, scores = select(nodes, scores, int(width.max()))
    inside = torch.arange(nodes.shape[1], device=nodes.device) < width
    return Choice(nodes * inside, scores.masked_fill(~inside, -torch.inf), width, outlook.coverage.gather(1, best))
