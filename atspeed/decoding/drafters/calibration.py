"""How likely a draft's candidates are beams of the target: measured on requests whose beams are known."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel

from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafted_scores import score_children
from atspeed.decoding.indexing import index_of
from atspeed.decoding.scorer import PrefixScorer
from atspeed.decoding.trie import ItemTrie

SPARE = (0, 1, 2, 3, 5, 8, 12, 16, 20, 28, 40, 60, 90, 140, 220, 340)
"""Nodes beyond K in the draft widths whose coverage is counted."""
_CALIBRATION = "_atspeed_calibration"  # attribute of a draft


@dataclass(frozen=True)
class LevelCalibration:
    """What a draft's candidates at one level say of the target's K beams there.

    Attributes:
        num_beams: beam width K.
        depth: depth of the target's beams that the draft started from.
        level: the drafted level, 0-based; ``depth`` or deeper.
        intercept: see ``slope``.
        slope: a candidate is one of the K beams with probability ``sigmoid(intercept + slope · gap)``, where the gap is
            its score less that of the draft's K-th best candidate, in nats.
        widths: draft widths N: K and some more.
        coverage: for each of them, the share of requests whose K beams are all among the draft's best N.
        num_found: for each of them, how many of the K beams are among the draft's best N, a mean over requests.
        requests: on how many requests that rests: those whose beams of the levels above were all candidates.
    """

    num_beams: int
    depth: int
    level: int
    intercept: float
    slope: float
    widths: tuple[int, ...]
    coverage: tuple[float, ...]
    num_found: tuple[float, ...]
    requests: int

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Return the record of its fields as JSON has them, where tuples have become lists."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
        return cls(**values)


@dataclass(frozen=True)
class Calibration:
    """A draft's calibration for every beam width, starting depth and level that was measured."""

    levels: tuple[LevelCalibration, ...]

    def find(self, num_beams: int, depth: int, level: int) -> LevelCalibration | None:
        """Return the calibration of a level, for the nearest beam width by ratio; None if it was not measured."""
        measured = [each for each in self.levels if (each.depth, each.level) == (depth, level)]
        return min(measured, key=lambda each: abs(math.log(each.num_beams / num_beams)), default=None)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the levels, ready for JSON."""
        return [asdict(level) for level in self.levels]

    @classmethod
    def from_json(cls, levels: list[dict[str, Any]]) -> Self:
        """Return what :meth:`to_json` was called on."""
        return cls(tuple(LevelCalibration.from_json(level) for level in levels))


def keep_calibration(draft: PreTrainedModel, calibration: Calibration) -> None:
    """Let :func:`kept_calibration` return the calibration for this draft."""
    setattr(draft, _CALIBRATION, calibration)


def kept_calibration(draft: PreTrainedModel) -> Calibration | None:
    """Return what :func:`keep_calibration` was given for a draft; None if nothing."""
    return getattr(draft, _CALIBRATION, None)


def beam_widths(num_beams: int) -> list[int]:
    """Return the beam widths to calibrate where up to ``num_beams`` are to be served."""
    return sorted({width for width in (1, 2, 5, 10, 20, 50, 100) if width < num_beams} | {num_beams})


@torch.inference_mode()
def calibrate(
    draft: PreTrainedModel, trie: ItemTrie, requests: Iterable[tuple[Tensor, Tensor, Sequence[Beams]]]
) -> Calibration:
    """Measure a draft on requests that neither model was trained on.

    Args:
        draft: the model that proposes.
        trie: the catalog, on its device.
        requests: batches: prompts ``[B, P]`` and their mask, as for :class:`PrefixScorer`, and the target's beams of
            the largest width to calibrate for; see :func:`atspeed.decoding.beams.beams_by_depth`.
    """
    calibrator = Calibrator()
    for prompts, prompt_mask, beams in requests:
        scorer = PrefixScorer(draft, trie, prompts, prompt_mask, "allowed")  # as the decoder has it
        for width in beam_widths(beams[0].width):
            calibrator.update(scorer, narrower_beams(beams, trie, width))
    return calibrator.compute()


def narrower_beams(beams: Sequence[Beams], trie: ItemTrie, num_beams: int) -> list[Beams]:
    """Return the beams of a narrower search: the best ones whose prefixes are among the best ones before.

    The wider search may have lost a child of the narrower one's prefixes. Where fewer of them are left than there must
    be, the request has no beam at this depth and below.
    """
    root = beams[0]
    narrow = [root._replace(leaves=root.leaves[:, :num_beams], leaf_scores=root.leaf_scores[:, :num_beams])]
    for wide in beams[1:]:
        parents = narrow[-1]
        is_child = index_of(trie.parent[wide.nodes], parents.nodes)[1] & parents.mask.any(1, keepdim=True)
        nodes, scores = select_top(wide.nodes, wide.scores.masked_fill(~is_child, -torch.inf), num_beams)
        expected = (trie.num_children[parents.nodes] * parents.mask).sum(1).clamp(max=num_beams)
        lost = ((scores > -torch.inf).sum(1) < expected)[:, None]
        narrow.append(parents._replace(nodes=nodes, scores=scores.masked_fill(lost, -torch.inf), depth=wide.depth))
    return narrow


class _Samples(NamedTuple):
    """What a batch of n requests says of a level.

    Attributes:
        gaps: of the draft's candidates in all requests, ``[candidates]``, float32.
        is_beam: ``[candidates]``, bool.
        ranks: of the target's beams among the candidates, from 0; their number where one is not among them, -1 where
            there is no K-th beam; ``[n, K]``, int64.
    """

    gaps: Tensor
    is_beam: Tensor
    ranks: Tensor


class Calibrator:
    """Collects, batch by batch, what a :class:`Calibration` is made from."""

    def __init__(self) -> None:
        self._samples: dict[tuple[int, int, int], list[_Samples]] = defaultdict(list)

    def update(self, draft: PrefixScorer, beams: Sequence[Beams]) -> None:
        """Add requests, with beams of one width.

        Args:
            draft: the draft's scorer, over legal codes.
            beams: the target's; see :func:`atspeed.decoding.beams.beams_by_depth`.
        """
        num_beams = beams[0].width
        most = num_beams + SPARE[-1]
        for depth, start in enumerate(beams[:-1]):
            nodes, mask, scores = start.nodes, start.mask, start.scores
            rows = mask.any(1).nonzero()[:, 0]
            for level, expected in enumerate(beams[depth + 1 :], start=depth):
                candidates, scores = select_top(*score_children(nodes, mask, scores, start, None, draft), most)
                threshold = scores[:, num_beams - 1 : num_beams]
                nodes, mask = candidates, scores > -torch.inf
                is_beam = index_of(candidates, expected.nodes)[1]
                rows = rows[expected.mask[rows].any(1)]
                ranks, found = index_of(expected.nodes, candidates)
                ranks = ranks.where(found, most).masked_fill(~expected.mask, -1)[rows]
                counts = (mask & (threshold > -torch.inf))[rows]  # where there are K candidates
                samples = _Samples((scores - threshold)[rows][counts], is_beam[rows][counts], ranks)
                self._samples[num_beams, depth, level].append(samples)
                rows = rows[(ranks < most).all(1)]

    def compute(self) -> Calibration:
        """Return the calibration by all that was added."""
        return Calibration(tuple(_calibrate(*key, samples) for key, samples in sorted(self._samples.items())))


def _calibrate(num_beams: int, depth: int, level: int, samples: list[_Samples]) -> LevelCalibration:
    gaps, is_beam, ranks = (torch.cat(parts) for parts in zip(*samples, strict=True))
    intercept, slope = fit_logistic(gaps, is_beam)
    widths = tuple(num_beams + spare for spare in SPARE)
    inside = ranks[..., None] < torch.tensor(widths, device=ranks.device)  # [n, K, widths]
    found = inside & (ranks >= 0)[..., None]
    requests = max(len(ranks), 1)
    return LevelCalibration(
        num_beams=num_beams,
        depth=depth,
        level=level,
        intercept=intercept,
        slope=slope,
        widths=widths,
        coverage=tuple((inside.all(1).sum(0) / requests).tolist()),
        num_found=tuple((found.sum((0, 1)) / requests).tolist()),
        requests=len(ranks),
    )


def fit_logistic(x: Tensor, labels: Tensor, penalty: float = 1e-2, steps: int = 100) -> tuple[float, float]:
    """Fit ``P(label) = sigmoid(intercept + slope · x)``: maximum likelihood by Newton's method, in float64.

    Args:
        x: ``[n]``.
        labels: ``[n]``, bool.
        penalty: weight of the squares of both, which keeps them finite where a threshold separates the labels.
        steps: at most so many.

    >>> x = torch.linspace(-3, 3, 1001).repeat(100)
    >>> labels = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < (0.5 + 2 * x).sigmoid()
    >>> [round(value, 1) for value in fit_logistic(x, labels)]
    [0.5, 2.0]
    """
    features = torch.stack([torch.ones_like(x), x], dim=1).double()  # [n, 2]
    weights = torch.zeros(2, dtype=torch.float64, device=x.device)
    for _ in range(steps):
        p = (features @ weights).sigmoid()
        gradient = features.T @ (labels.double() - p) - penalty * weights
        hessian = (features * (p * (1 - p))[:, None]).T @ features + penalty * torch.eye(2, device=x.device).double()
        step = torch.linalg.solve(hessian, gradient).clamp(-1, 1)  # a full step may overshoot where p is near 0 or 1
        weights = weights + step
        if step.abs().max() < 1e-6:
            break
    return float(weights[0]), float(weights[1])
