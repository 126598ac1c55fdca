"""What the tokens of a round are expected to save, before the draft is called.

The economics are a few numbers per request, so they are NumPy arrays on the host.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from atspeed.decoding.cost import CostModel
from atspeed.decoding.drafters.calibration import SPARE, Calibration, LevelCalibration

Array = NDArray[Any]  # float64 where nothing else is said
MOST_TOKENS = 2048  # of a call and request; what would take more is not considered
ANY = np.iinfo(np.int64).max
TYPICAL_WIDTH = 2  # beam widths; of the level above, whose nodes the draft has to score
ENGINE_SECONDS = 1.5e-3
"""What the engine's own operations at a proposed level take: a few hundred small ones, whose time is the host's, on a
GPU as on a CPU. Measured on an Intel Xeon."""
DRAFTING_SECONDS = 2.5e-3
"""The same of those that choose from the draft's candidates, on top."""


REPLAYED_SECONDS = 4e-4
"""The same where rounds replay as CUDA graphs, choosing from the draft's candidates included: some 130 kernels of 3 µs.
Counted on a CPU, not measured on a GPU yet."""


class Outlook(NamedTuple):
    """What is expected of a level, for each request.

    Attributes:
        intercept: see :class:`LevelCalibration`, ``[B, 1]``.
        slope: the same.
        widths: draft widths, ``[B, n]``, int64.
        coverage: of these widths, ``[B, n]``.
        num_found: of these widths, ``[B, n]``.
        draft_seconds: of the draft call that the level takes and of choosing from it, per request, ``[B, 1]``.
        value_below: seconds that the levels below save once this one is covered, by the tokens of the call until then,
            ``[B, MOST_TOKENS + 1]``.
    """

    intercept: Array
    slope: Array
    widths: Array
    coverage: Array
    num_found: Array
    draft_seconds: Array
    value_below: Array


class Plan(NamedTuple):
    """Prices, and what is expected of the draft, for one beam width, batch size and prompt length.

    Attributes:
        num_beams: K.
        batch_size: requests of a call.
        row_seconds: what a call for the beams takes less if one request fewer is in it.
        seconds: of a target call, per request, by its tokens per request, ``[MOST_TOKENS + 1]``; 0 for none.
        engine_seconds: of the engine's own operations at a proposed level, per request.
        tokens: of the target's call before anything is proposed, by the depth of the beams, ``[L, 1]``, int64.
        pays_up_to: with how many nodes in the level right below beams of a depth a proposal may pay, ``[L]``, int64: 0
            if with none, any number where a draft's choice is expected to pay.
        outlooks: the arrays of :class:`Outlook` by the depth of the beams and the level, ``[L, L, …]``; where there is
            nothing to draft, nothing is covered.
    """

    num_beams: int
    batch_size: int
    row_seconds: float
    seconds: Array
    engine_seconds: float
    tokens: Array
    pays_up_to: Array
    outlooks: Outlook

    def outlook(self, depth: Array, ahead: int) -> Outlook:
        """Return the outlook ``ahead`` levels below beams of a depth, ``[B]``."""
        level = np.minimum(depth + ahead, len(self.tokens) - 1)  # the last one is of leaves, and never drafted
        return Outlook(*(part[depth, level] for part in self.outlooks))

    def gain(
        self,
        outlook: Outlook,
        tokens: Array,
        covered: Array,
        width: Array,
        coverage: Array | float,
        num_found: Array | float,
    ) -> Array:
        """Return the seconds that a level's nodes are expected to save, without the draft call, ``[B, n]``.

        With probability ``c = covered · coverage`` the level needs no call of its own, and the levels below it have
        their value; where it does need one, the beams that are among the nodes are not scored again. A batch is spared
        its call if no request needs it, with probability ``c^B``; else the request is only not in it.

        Args:
            outlook: of the level.
            tokens: of the call so far, ``[B, 1]``, int64.
            covered: probability that the beams of the levels above are covered, ``[B, 1]``.
            width: nodes to add, ``[B, n]``, int64.
            coverage: probability that this level's beams are covered if those are, ``[B, n]``.
            num_found: how many of this level's beams are among the nodes, ``[B, n]``.
        """
        after = np.minimum(tokens + width, MOST_TOKENS)
        call = self.seconds[min(self.num_beams, MOST_TOKENS)]
        missing = np.clip(np.rint(self.num_beams - np.asarray(num_found)).astype(np.int64), 1, MOST_TOKENS)
        below = np.take_along_axis(outlook.value_below, after, axis=1)
        succeeds = covered * coverage
        spared = succeeds**self.batch_size
        saved = spared * call + (succeeds - spared) * self.row_seconds + succeeds * below
        saved += (covered - succeeds) * (call - self.seconds[missing])
        added = self.seconds[after] - self.seconds[np.minimum(tokens, MOST_TOKENS)]
        gain = saved - added - self.engine_seconds
        return np.where(tokens + width > MOST_TOKENS, -np.inf, np.where(width > 0, gain, 0.0))

    def expected_gain(self, outlook: Outlook, tokens: Array, covered: Array) -> Array:
        """Return the seconds that each of the outlook's widths saves on average, less its draft call, ``[B, n]``."""
        gain = self.gain(outlook, tokens, covered, outlook.widths, outlook.coverage, outlook.num_found)
        return gain - outlook.draft_seconds

    def decide(self, outlook: Outlook, tokens: Array, covered: Array, num_children: Array) -> tuple[Array, Array]:
        """Return which requests take a level complete, and which the draft's best of it; ``[B, 1]``, bool each.

        Args:
            outlook: of the level.
            tokens: see :meth:`gain`.
            covered: see :meth:`gain`.
            num_children: nodes of the complete level, 0 where there is none, ``[B, 1]``, int64.
        """
        gain_of_best = self.expected_gain(outlook, tokens, covered).max(1, keepdims=True)
        gain_of_all = self.gain(outlook, tokens, covered, num_children, 1.0, self.num_beams)
        takes_all = (num_children > 0) & (gain_of_all > 0) & (gain_of_all >= gain_of_best)
        return takes_all, (num_children > 0) & (gain_of_best > 0) & ~takes_all


def make_plan(
    target: CostModel,
    draft: CostModel,
    calibration: Calibration | None,
    num_beams: int,
    num_levels: int,
    batch_size: int,
    prompt_tokens: int,
    replayed: bool = False,
) -> Plan:
    """Make a plan.

    The values come from the deepest level upwards: at each number of tokens a level is worth its best fixed width,
    given what the level below is worth then, and at least nothing.

    Args:
        target: cost of the target's calls.
        draft: cost of the draft's calls.
        calibration: of the draft; without one no level is expected to be covered.
        num_beams: K.
        num_levels: L.
        batch_size: requests of a call.
        prompt_tokens: of the first call.
        replayed: whether rounds replay as CUDA graphs.
    """
    engine_seconds, drafting_seconds = (REPLAYED_SECONDS, 0.0) if replayed else (ENGINE_SECONDS, DRAFTING_SECONDS)
    calls = [min(prompt_tokens, MOST_TOKENS)] + [min(num_beams, MOST_TOKENS)] * (num_levels - 1)
    seconds, row_less = (
        target.seconds_by_tokens(MOST_TOKENS, size, prompt_tokens) if size else np.zeros(MOST_TOKENS + 1)
        for size in (batch_size, batch_size - 1)
    )
    plan = Plan(
        num_beams=num_beams,
        batch_size=batch_size,
        row_seconds=float((seconds - row_less)[min(num_beams, MOST_TOKENS)]),
        seconds=seconds / batch_size,
        engine_seconds=engine_seconds / batch_size,
        tokens=np.array(calls)[:, None],
        pays_up_to=np.zeros(num_levels, dtype=np.int64),
        outlooks=Outlook(*[np.zeros(0)] * 7),
    )
    all_tokens = np.arange(MOST_TOKENS + 1)[:, None]
    rows = []
    for depth in range(num_levels):
        row, value = [], np.zeros(MOST_TOKENS + 1)
        for level in reversed(range(num_levels)):
            drafted = calls[depth] if level == depth else TYPICAL_WIDTH * num_beams
            draft_seconds = (draft.seconds(drafted, batch_size, prompt_tokens) + drafting_seconds) / batch_size
            found = calibration.find(num_beams, depth, level) if calibration and level < num_levels - 1 else None
            outlook = _outlook(found or nothing_found(num_beams), num_beams, draft_seconds, value)
            row.append(outlook)
            at_all = Outlook(*(np.broadcast_to(part, (len(all_tokens), part.shape[-1])) for part in outlook))
            value = plan.expected_gain(at_all, all_tokens, np.ones((len(all_tokens), 1))).max(1).clip(min=0)
        rows.append(row[::-1])
    parts = [np.stack([np.stack([outlook[part] for outlook in row]) for row in rows]) for part in range(7)]
    plan = plan._replace(outlooks=Outlook(*parts))
    depths, one = np.arange(num_levels), np.ones((num_levels, 1))
    outlook, widths = plan.outlook(depths, 0), np.broadcast_to(all_tokens.T, (num_levels, len(all_tokens)))
    complete = plan.gain(outlook, plan.tokens, one, widths, 1.0, num_beams) > 0
    pays_up_to = np.where(plan.expected_gain(outlook, plan.tokens, one).max(1) > 0, ANY, (widths * complete).max(1))
    pays_up_to[-1] = 0  # the last level is not proposed
    return plan._replace(pays_up_to=pays_up_to)


def nothing_found(num_beams: int) -> LevelCalibration:
    """Return the calibration of a draft that never proposes a beam."""
    none = (0,) * len(SPARE)
    return LevelCalibration(num_beams, 0, 0, 0.0, 0.0, (1,) * len(SPARE), none, none, requests=0)


def _outlook(found: LevelCalibration, num_beams: int, draft_seconds: float, value_below: Array) -> Outlook:
    """Return the outlook of a level for one request; a calibration of another beam width is scaled."""
    scale = num_beams / found.num_beams
    return Outlook(
        intercept=np.array([found.intercept]),
        slope=np.array([found.slope]),
        widths=np.rint(np.array(found.widths) * scale).astype(np.int64),
        coverage=np.array(found.coverage, dtype=float),
        num_found=np.array(found.num_found, dtype=float) * scale,
        draft_seconds=np.array([draft_seconds]),
        value_below=value_below,
    )
