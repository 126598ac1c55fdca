import copy

import pytest
import torch

from atspeed.benchmark.floor import Floor, FloorMeter, copy_bandwidth, weight_bytes
from atspeed.benchmark.prediction import BatchCalls
from atspeed.decoding.cost import CallShape
from tests.decoding.tiny import tiny_model

VOCAB_SIZE = 12
TARGET, DRAFT = tiny_model("llama", VOCAB_SIZE), tiny_model("gpt2", VOCAB_SIZE)
TWO_CALLS = BatchCalls([CallShape(20), CallShape(5, 1, 20)], [CallShape(9)])
ONE_CALL = BatchCalls([CallShape(20)], [])


def test_weights_are_read_once_a_call_and_forward_passes_are_those_of_the_calls() -> None:
    meter = FloorMeter(TARGET, DRAFT, 3_000_000, 1_000_000)
    floor = meter.floor([TWO_CALLS, ONE_CALL], [0.3, 0.1])
    assert floor.latency_ms == pytest.approx(200)
    assert floor.weights_ms == pytest.approx(1000 * (7e6 + 3e6) / 2 / meter.bandwidth)
    prompt, nodes = (meter.target_calls(shape) for shape in TWO_CALLS.target)  # known already, so not timed again
    assert floor.target_ms == pytest.approx(1000 * (prompt + nodes + prompt) / 2)
    assert floor.draft_ms == pytest.approx(1000 * meter.draft_calls(CallShape(9)) / 2)
    assert floor.draft_ms > 0
    assert FloorMeter(TARGET, None, 1, 0).floor([ONE_CALL], [0.1]).draft_ms == 0


def test_what_is_not_in_the_models_is_the_engine() -> None:
    assert Floor(latency_ms=10.0, weights_ms=1.0, target_ms=6.0, draft_ms=1.0).engine_share == pytest.approx(0.3)


@pytest.mark.parametrize("tied", [False, True])
def test_an_embedding_that_is_only_looked_up_is_not_read(tied: bool) -> None:
    model = copy.deepcopy(TARGET).bfloat16()
    if tied:
        model.set_output_embeddings(model.get_input_embeddings())
    embedding = VOCAB_SIZE * model.config.hidden_size
    inner = sum(weight.numel() for weight in model.model.layers.parameters()) + model.config.hidden_size
    assert weight_bytes(model) == 2 * (inner + embedding)


def test_a_copy_counts_the_bytes_read_and_the_bytes_written() -> None:
    slow = copy_bandwidth(torch.device("cpu"), 1 << 26)
    assert 1e8 < slow < 1e13
