"""What the tokens of a round are expected to save, before the draft is called."""

from typing import NamedTuple

import torch
from torch import Tensor

from atspeed.decoding.cost import CostModel
from atspeed.decoding.drafters.calibration import SPARE, Calibration, LevelCalibration

MOST_TOKENS = 2048  # of a call and request; what would take more is not considered
TYPICAL_WIDTH = 2  # beam widths; of the level above, whose nodes the draft has to score


class Outlook(NamedTuple):
    """What is expected of the draft at a level, for each request.

    Attributes:
        intercept: see :class:`LevelCalibration`, ``[B, 1]``, float32.
        slope: the same.
        widths: draft widths, ``[B, n]``, int64.
        coverage: of these widths, ``[B, n]``, float32.
        num_found: of these widths, ``[B, n]``, float32.
        draft_seconds: of the draft call that the level takes, per request, ``[B, 1]``, float32.
        value_below: seconds that the levels below save once this one is covered, by the tokens of the call until then,
            ``[B, MOST_TOKENS + 1]``, float32.
    """

    intercept: Tensor
    slope: Tensor
    widths: Tensor
    coverage: Tensor
    num_found: Tensor
    draft_seconds: Tensor
    value_below: Tensor


class Plan(NamedTuple):
    """Prices, and what is expected of the draft, for one beam width, batch size and prompt length.

    Attributes:
        num_beams: K.
        seconds: of a target call, per request, by its tokens per request, ``[MOST_TOKENS + 1]``, float32; 0 for none.
        tokens: of the target's call before anything is proposed, by the depth of the beams, ``[L, 1]``, int64.
        outlooks: the tensors of :class:`Outlook` by the depth of the beams and the level, ``[L, L, …]``; where there is
            nothing to draft, nothing is covered.
    """

    num_beams: int
    seconds: Tensor
    tokens: Tensor
    outlooks: Outlook

    def outlook(self, depth: Tensor, ahead: int) -> Outlook:
        """Return the outlook ``ahead`` levels below beams of a depth, ``[B]``, int64."""
        level = (depth + ahead).clamp(max=len(self.tokens) - 1)  # the last one is of leaves, and never drafted
        return Outlook(*(part[depth, level] for part in self.outlooks))

    def gain(
        self,
        outlook: Outlook,
        tokens: Tensor,
        covered: Tensor,
        width: Tensor,
        coverage: Tensor | float,
        num_found: Tensor | float,
    ) -> Tensor:
        """Return the seconds that a level's nodes are expected to save, without the draft call, ``[B, n]``.

        With probability ``covered · coverage`` the level needs no call of its own, and the levels below it have their
        value; where it does need one, the beams that are among the nodes are not scored again.

        Args:
            outlook: of the level.
            tokens: of the call so far, ``[B, 1]``, int64.
            covered: probability that the beams of the levels above are covered, ``[B, 1]``.
            width: nodes to add, ``[B, n]``, int64.
            coverage: probability that this level's beams are covered if those are.
            num_found: how many of this level's beams are among the nodes.
        """
        call = self.seconds[min(self.num_beams, MOST_TOKENS)]
        missing = (self.num_beams - torch.as_tensor(num_found)).round().long().clamp(1, MOST_TOKENS)  # at least one
        after = tokens + width
        below = outlook.value_below.gather(1, after.clamp(max=MOST_TOKENS))
        saved = coverage * (call + below) + (1 - coverage) * (call - self.seconds[missing])
        added = self.seconds[after.clamp(max=MOST_TOKENS)] - self.seconds[tokens.clamp(max=MOST_TOKENS)]
        return (covered * saved - added).masked_fill(after > MOST_TOKENS, -torch.inf)

    def expected_gain(self, outlook: Outlook, tokens: Tensor, covered: Tensor) -> Tensor:
        """Return the seconds that each of the outlook's widths saves on average, less its draft call, ``[B, n]``."""
        gain = self.gain(outlook, tokens, covered, outlook.widths, outlook.coverage, outlook.num_found)
        return gain - outlook.draft_seconds


def make_plan(
    target: CostModel,
    draft: CostModel,
    calibration: Calibration | None,
    num_beams: int,
    num_levels: int,
    batch_size: int,
    prompt_tokens: int,
    device: torch.device,
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
        device: of the tensors.
    """
    seconds = target.seconds_by_tokens(MOST_TOKENS, batch_size, prompt_tokens) / batch_size
    calls = torch.tensor([prompt_tokens] + [num_beams] * (num_levels - 1), device=device)[:, None]
    plan = Plan(num_beams, torch.tensor(seconds, dtype=torch.float32, device=device), calls, Outlook(*[calls] * 7))
    all_tokens = torch.arange(MOST_TOKENS + 1, device=device)[:, None]
    rows = []
    for depth in range(num_levels):
        row, value = [], torch.zeros(1, MOST_TOKENS + 1, device=device)
        for level in reversed(range(num_levels)):
            drafted = int(calls[depth]) if level == depth else TYPICAL_WIDTH * num_beams
            draft_seconds = draft.seconds(drafted, batch_size, prompt_tokens) / batch_size
            found = calibration.find(num_beams, depth, level) if calibration and level < num_levels - 1 else None
            outlook = _outlook(found or nothing_found(num_beams), num_beams, draft_seconds, value)
            row.append(outlook)
            at_all = outlook._replace(value_below=value.expand(len(all_tokens), -1))
            value = plan.expected_gain(at_all, all_tokens, torch.ones_like(value.T)).amax(1).clamp(min=0)[None]
        rows.append(row[::-1])
    parts = [torch.stack([torch.cat([outlook[part] for outlook in row]) for row in rows]) for part in range(7)]
    return plan._replace(outlooks=Outlook(*parts))


def nothing_found(num_beams: int) -> LevelCalibration:
    """Return the calibration of a draft that never proposes a beam."""
    none = (0,) * len(SPARE)
    return LevelCalibration(num_beams, 0, 0, -100.0, 0.0, (1,) * len(SPARE), none, none, requests=0)


def _outlook(found: LevelCalibration, num_beams: int, draft_seconds: float, value_below: Tensor) -> Outlook:
    """Return the outlook of a level; a calibration of another beam width is scaled."""
    scale = num_beams / found.num_beams

    def row(*values: float) -> Tensor:
        return torch.tensor([values], dtype=torch.float32, device=value_below.device)

    return Outlook(
        intercept=row(found.intercept),
        slope=row(found.slope),
        widths=(row(*found.widths) * scale).round().long(),
        coverage=row(*found.coverage),
        num_found=row(*found.num_found) * scale,
        draft_seconds=row(draft_seconds),
        value_below=value_below,
    )
