"""What the cost model says of the rows of a benchmark: here against the measured time, and for devices that are not."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from atspeed.benchmark.timing import median_ratio
from atspeed.decoding.cost import GPUS, CallShape, CostModel, DeviceModel, ModelSize

SHOWN = ("RTX A5000", "H100")


@dataclass(frozen=True)
class PredictionRow:
    """A strict method at one beam width and batch size.

    Attributes:
        method: name of the method.
        num_beams: beam width K.
        batch_size: requests decoded together.
        measured_target_ms: milliseconds per batch in forward passes of the target, as in ``phases_ms``.
        predicted_target_ms: the same by the cost model, from the sizes of the calls of the same batches.
        relative_error: their difference over what was measured.
        predicted_speedup_vs_plain: device → time of the models in plain beam search over that in this method: median
            over batches; predicted from the device's specification, without the time outside the models.
    """

    method: str
    num_beams: int
    batch_size: int
    measured_target_ms: float
    predicted_target_ms: float
    relative_error: float
    predicted_speedup_vs_plain: dict[str, float]


@dataclass(frozen=True)
class Predictions:
    """How well the cost model predicts a run, and what it says of other devices.

    Attributes:
        call_price: how many tokens cost what one more target call costs (ρ), here; None where tokens cost nothing.
        median_error: median of the rows' absolute relative errors; None without rows.
        rows: the strict methods of this engine, in the order of the benchmark's rows.
    """

    call_price: float | None
    median_error: float | None
    rows: list[PredictionRow]

    @classmethod
    def of(cls, cost: CostModel, rows: list[PredictionRow]) -> "Predictions":
        """Sum up rows."""
        return cls(
            call_price=cost.call_price if cost.token_seconds else None,
            median_error=statistics.median(abs(row.relative_error) for row in rows) if rows else None,
            rows=rows,
        )


class BatchCalls(NamedTuple):
    """The sizes of the forward passes that answered a batch."""

    target: list[CallShape]
    draft: list[CallShape]


@dataclass(frozen=True)
class Predictor:
    """What is known of the calls of a run's models.

    Attributes:
        cost: measured, of the target's calls.
        target: size of the target.
        draft: size of the draft, if there is one.
    """

    cost: CostModel
    target: ModelSize
    draft: ModelSize | None

    def row(
        self,
        method: str,
        num_beams: int,
        batch_size: int,
        target_ms: float,
        profiled: Sequence[BatchCalls],
        calls: Sequence[BatchCalls],
        plain: Sequence[BatchCalls],
    ) -> PredictionRow:
        """Compare a method's measured time with what its calls should take, and predict its speedup elsewhere.

        Args:
            method: its name.
            num_beams: beam width K.
            batch_size: requests decoded together.
            target_ms: measured milliseconds per batch in the target, over the batches that were profiled.
            profiled: the calls of these batches.
            calls: those of all batches.
            plain: those of plain beam search for all batches.
        """
        predicted_ms = 1000 * statistics.mean(self.cost.seconds_of(batch.target) for batch in profiled)
        return PredictionRow(
            method=method,
            num_beams=num_beams,
            batch_size=batch_size,
            measured_target_ms=target_ms,
            predicted_target_ms=predicted_ms,
            relative_error=predicted_ms / target_ms - 1,
            predicted_speedup_vs_plain={name: self._speedup(GPUS[name], plain, calls) for name in SHOWN},
        )

    def _speedup(self, device: DeviceModel, plain: Sequence[BatchCalls], ours: Sequence[BatchCalls]) -> float:
        def seconds(calls: BatchCalls) -> float:
            drafting = device.predicted_seconds(self.draft, calls.draft) if self.draft else 0.0
            return device.predicted_seconds(self.target, calls.target) + drafting

        return median_ratio([seconds(calls) for calls in plain], [seconds(calls) for calls in ours])
