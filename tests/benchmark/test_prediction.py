"""What the benchmark says of the cost of calls; synthetic costs, no real clock."""

import pytest

from atspeed.benchmark.prediction import SHOWN, BatchCalls, PredictionRow, Predictions, Predictor
from atspeed.decoding.cost import GPUS, CallShape, CostModel, ModelSize

COST = CostModel((1, 1001), (1e-3, 2e-3), per_slot=0.0, per_pair=0.0)  # 1 ms, and 1 µs per token
FOUR_CALLS = BatchCalls([CallShape(40), CallShape(20, 1, 40), CallShape(20, 1, 60), CallShape(20, 1, 80)], [])
TWO_CALLS = BatchCalls([CallShape(100), CallShape(20, 1, 100)], [CallShape(60)])


def predicted(predictor: Predictor) -> PredictionRow:
    return predictor.row(
        method="draft",
        num_beams=20,
        batch_size=1,
        target_ms=2.0,
        profiled=[TWO_CALLS],
        calls=[TWO_CALLS, FOUR_CALLS, TWO_CALLS],
        plain=[FOUR_CALLS] * 3,
    )


def test_the_time_in_the_target_is_that_of_the_calls_of_the_profiled_batches() -> None:
    row = predicted(Predictor(COST, ModelSize(7_000_000_000, 32, 14_000_000_000), None))
    assert row.predicted_target_ms == pytest.approx(2 + 0.118)
    assert row.relative_error == pytest.approx(0.059)


def test_speedups_count_the_calls_of_both_models() -> None:
    target, draft = ModelSize(7_000_000_000, 32, 14_000_000_000), ModelSize(7_000_000, 2, 14_000_000)
    free = predicted(Predictor(COST, target, None)).predicted_speedup_vs_plain
    paid = predicted(Predictor(COST, target, draft)).predicted_speedup_vs_plain
    assert set(free) == set(paid) == set(SHOWN) <= set(GPUS)
    for gpu in SHOWN:
        assert free[gpu] == pytest.approx(2)  # the median batch; no call of these costs more than a read
        assert 1.8 < paid[gpu] < 2


def test_errors_are_summed_up_by_their_median() -> None:
    rows = [PredictionRow("plain", 1, 1, 1.0, 1 + error, error, {}) for error in (-0.5, 0.1, 0.2)]
    predictions = Predictions.of(COST, rows)
    assert predictions.median_error == 0.2
    assert predictions.call_price == pytest.approx(1000)
    assert Predictions.of(CostModel((1, 2), (1.0, 1.0), 0.0, 0.0), []) == Predictions(None, None, [])
