"""The fit of synthetic timings; no real clock."""

import itertools
import json
import random
from collections.abc import Callable

import pytest

from atspeed.decoding.cost import CallShape, CostModel
from atspeed.decoding.cost.cost_model import isotonic

SHAPES = [
    *(CallShape(tokens, 1, 64) for tokens in (1, 8, 64, 128, 256, 512)),
    CallShape(1, 1, 512),
    CallShape(128, 1, 512),
    CallShape(64, 4),
]


def linear(shape: CallShape) -> float:
    """A call of 4 ms, 0.1 ms per token, 1 µs per slot, 0.1 µs per pair."""
    return 4e-3 + 1e-4 * shape.total_tokens + 1e-6 * shape.slots + 1e-7 * shape.pairs


def roofline(shape: CallShape) -> float:
    """A device on which 200 tokens cost as much as a read of the weights."""
    return 1e-2 * max(1.0, shape.total_tokens / 200)


def fitted(seconds_of: Callable[[CallShape], float]) -> CostModel:
    return CostModel.fit((shape, seconds_of(shape)) for shape in SHAPES)


def test_linear_costs_are_found_again_for_shapes_that_were_not_measured() -> None:
    cost = fitted(linear)
    assert cost.per_slot == pytest.approx(1e-6)
    assert cost.per_pair == pytest.approx(1e-7)
    for shape in (CallShape(30, 1, 200), CallShape(20, 16, 100), CallShape(700, 2, 0), CallShape(3, 8, 1000)):
        assert cost.seconds(*shape) == pytest.approx(linear(shape))
    assert cost.seconds_of(SHAPES) == pytest.approx(sum(map(linear, SHAPES)))


def test_the_price_of_a_call_is_its_time_in_tokens() -> None:
    cost = fitted(linear)
    assert cost.token_seconds == pytest.approx(1e-4)
    assert cost.call_price == pytest.approx(linear(CallShape(1)) / 1e-4)
    assert fitted(roofline).call_price == pytest.approx(200)
    assert fitted(lambda _: 1.0).call_price == float("inf")


@pytest.mark.parametrize("truth", [linear, roofline])
def test_noise_never_makes_a_larger_call_cheaper(truth: Callable[[CallShape], float]) -> None:
    noise = random.Random(0)
    for _ in range(20):
        cost = fitted(lambda shape: truth(shape) * noise.uniform(0.5, 1.5))
        assert cost.per_slot >= 0
        assert cost.per_pair >= 0
        for change in range(3):
            for shape in itertools.product((1, 5, 63, 300, 600), (1, 3, 20), (0, 64, 900)):
                larger = [value + 7 * (index == change) for index, value in enumerate(shape)]
                assert cost.seconds(*larger) >= cost.seconds(*shape) > 0


def test_of_repeated_calls_the_fastest_counts() -> None:
    quiet = [(shape, linear(shape)) for shape in SHAPES]
    disturbed = [(shape, 3 * seconds) for shape, seconds in quiet]
    assert CostModel.fit([*disturbed, *quiet]) == CostModel.fit([*quiet, *disturbed]) == fitted(linear)


def test_isotonic_regression_pools_by_weight() -> None:
    assert isotonic([3.0, 1.0, 2.0], [1, 3, 1]) == [1.5, 1.5, 2.0]
    assert isotonic([3.0, 2.0, 1.0], [1, 1, 1]) == [2.0, 2.0, 2.0]


def test_json_gives_the_record_back() -> None:
    cost = fitted(linear)
    assert CostModel.from_json(json.loads(json.dumps(cost.to_json()))) == cost


def test_the_counts_of_a_shape() -> None:
    shape = CallShape(tokens=5, batch_size=3, context=7)  # each of 15 tokens looks at 12 keys of its request
    assert (shape.total_tokens, shape.slots, shape.pairs) == (15, 36, 180)


@pytest.mark.parametrize(
    ("of_one", "of_128", "per_slot", "per_pair"),
    [
        (3.0, 130.0, 2.0, 1.0),
        (2.0, 1.0, 1.5, 0.0),  # fewer pairs would cost more: the mean, without pairs
        (0.0, 128.0, 0.0, 128 * 128 / (1 + 128 * 128)),  # slots would earn time: the best line through zero
        (-2.0, -1.0, 0.0, 0.0),
    ],
)
def test_neither_slots_nor_pairs_earn_time(of_one: float, of_128: float, per_slot: float, per_pair: float) -> None:
    per_key = {1: of_one, 128: of_128}
    cost = CostModel.fit(
        (CallShape(tokens, 1, context), 1000 + per_key[tokens] * context) for tokens in per_key for context in (0, 100)
    )
    assert (cost.per_slot, cost.per_pair) == pytest.approx((per_slot, per_pair), abs=1e-9)
