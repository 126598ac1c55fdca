"""A price-aware drafter with figures that are given instead of measured."""

import copy

import torch
from transformers import PreTrainedModel

from atspeed.decoding import PriceAwareDrafter
from atspeed.decoding.cost import CostModel
from atspeed.decoding.drafters.calibration import SPARE, Calibration, LevelCalibration

CHEAP = CostModel((1, 1000), (1e-6, 2e-6), 0.0, 0.0)


def similar_model(model: PreTrainedModel, noise: float = 0.2) -> PreTrainedModel:
    """A model that mostly agrees."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight += noise * torch.randn(weight.shape, generator=generator)
    return model


def cost_with(call_price: float, token_seconds: float = 1.0) -> CostModel:
    """A call costs as much as ``call_price`` tokens, and each token one second by default."""
    return CostModel((1, 1001), (call_price * token_seconds, (call_price + 1000) * token_seconds), 0.0, 0.0)


def level_calibration(num_beams: int, depth: int, level: int, slope: float = 2.0) -> LevelCalibration:
    """A draft that covers all beams with half of the widths that are counted."""
    coverage = [min(1.0, index / 8) for index in range(len(SPARE))]
    return LevelCalibration(
        num_beams=num_beams,
        depth=depth,
        level=level,
        intercept=0.0,
        slope=slope,
        widths=tuple(num_beams + spare for spare in SPARE),
        coverage=tuple(coverage),
        num_found=tuple(num_beams * (1 + value) / 2 for value in coverage),
        requests=100,
    )


def calibration_of(num_beams: int, num_levels: int, slope: float = 2.0) -> Calibration:
    """The same for all depths and levels."""
    pairs = [(depth, level) for level in range(num_levels) for depth in range(level + 1)]
    return Calibration(tuple(level_calibration(num_beams, *pair, slope) for pair in pairs))


class Priced(PriceAwareDrafter):
    """Goes by the given figures.

    Args:
        call_price: in tokens.
        calibration: None: the draft has none.
        batch_size: see :class:`PriceAwareDrafter`.
    """

    def __init__(self, call_price: float, calibration: Calibration | None, batch_size: int = 1) -> None:
        super().__init__(batch_size)
        self.figures = cost_with(call_price), CHEAP, calibration

    def prepare(self, target: PreTrainedModel, draft: PreTrainedModel | None, tolerance: float | None) -> None:
        super().prepare(target, draft, tolerance)
        self._target_cost, self._draft_cost, self._calibration = self.figures


PRICED = {
    "priced, cheap calls": Priced(2, calibration_of(5, 8)),
    "priced": Priced(20, calibration_of(3, 8)),
    "priced, dear calls": Priced(2000, calibration_of(5, 8, slope=0.5)),
    "priced, uncalibrated": Priced(30, None),
}
