from collections import Counter

import pytest

from atspeed.decoding.cost import BareCalls, CallShape, measure_cost
from atspeed.decoding.cost.bare_calls import REPEATS
from tests.decoding.cost.test_timed_calls import watched
from tests.decoding.tiny import tiny_model

SHAPES = [CallShape(5, 2, 7), CallShape(9, 3), CallShape(1, 1, 100)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_each_call_has_the_shape_that_it_counts_for_however_often_it_is_repeated(family: str) -> None:
    model, calls = watched(tiny_model(family, 12))
    bare = BareCalls(model)
    for shape in SHAPES:
        calls.clear()
        seconds = bare(shape)
        assert seconds > 0
        filling = CallShape(1, shape.batch_size)
        assert Counter(calls) == Counter([filling] + [shape] * REPEATS["cpu"])
        assert bare(shape) == seconds
    assert calls[-1] == SHAPES[-1], "a shape is timed once"


def test_the_cost_of_a_call_can_be_fitted_to_them() -> None:
    model = tiny_model("llama", 12)
    cost = measure_cost(model, BareCalls(model))
    assert cost.seconds(512, 1, 64) >= cost.seconds(1, 1, 64) > 0
