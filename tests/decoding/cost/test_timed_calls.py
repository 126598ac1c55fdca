import copy
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from atspeed.decoding import ItemTrie, ModelDrafter, SpeculativeDecoder
from atspeed.decoding.cost import (
    CallShape,
    CostModel,
    captured_cost,
    keep_cost,
    measure_budget,
    measure_cost,
    measured_cost,
)
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
TARGET, DRAFT = tiny_model("llama", VOCAB_SIZE), tiny_model("gpt2", VOCAB_SIZE)


def watched(model: PreTrainedModel) -> tuple[PreTrainedModel, list[CallShape]]:
    """Return a copy of a model, and a list that gets the shape of each of its calls."""
    model, calls = copy.deepcopy(model), []

    def look(_: object, __: object, inputs: dict[str, Any]) -> None:
        batch_size, tokens = inputs["input_ids"].shape
        cache = inputs.get("cache", inputs.get("past_key_values"))
        calls.append(CallShape(tokens, batch_size, cache.get_seq_length() if cache else 0))

    model.register_forward_pre_hook(look, with_kwargs=True)
    return model, calls


@pytest.mark.parametrize("model", [TARGET, DRAFT])  # the second has 64 positions, fewer than the contexts
def test_a_measurement_takes_40_calls_at_most_each_of_the_shape_that_it_counts_for(model: PreTrainedModel) -> None:
    model, calls = watched(model)
    cost = measure_cost(model)
    assert len(calls) == 38
    assert {call: times for call, times in Counter(calls).items() if times != 3} == {
        CallShape(64): 1,
        CallShape(512): 1,
    }
    assert Counter(calls)[CallShape(1, 1, 512)] == Counter(calls)[CallShape(64, 4)] == 3
    assert (cost.totals[0], cost.totals[-1]) == (1, 512)
    assert cost.curve[0] > 0


def test_the_first_round_does_not_count() -> None:
    called: Counter[CallShape] = Counter()

    def timer(shape: CallShape) -> float:
        called[shape] += 1
        return 0.001 if called[shape] == 1 else 0.01 + 1e-4 * shape.total_tokens

    cost = measure_cost(TARGET, timer)
    assert set(called.values()) == {3}
    assert cost.seconds(100, 1, 10) == pytest.approx(0.02)


def test_what_is_kept_on_a_model_is_not_measured_again() -> None:
    model = copy.deepcopy(TARGET)
    cost = CostModel((1, 100), (1.0, 2.0), 0.0, 0.0)
    keep_cost(model, cost)
    assert measured_cost(model) is cost
    assert [measure_budget(model, extra) for extra in (0, 0.5, 0.7, 1e9)] == [1, 32, 64, 1024]


def test_on_a_cpu_captured_calls_cost_what_calls_cost() -> None:
    model = copy.deepcopy(TARGET)
    cost = CostModel((1, 100), (1.0, 2.0), 0.0, 0.0)
    keep_cost(model, cost)
    assert captured_cost(model) is cost


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_captured_calls_are_cheaper_than_those_that_the_host_launches() -> None:
    model = copy.deepcopy(TARGET).cuda()
    captured = captured_cost(model)
    assert captured_cost(model) is captured
    assert 0 < captured.seconds(4) < measured_cost(model).seconds(4)


def test_a_search_reports_the_size_of_each_call() -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 200, [5, 6, 7]))
    prompts, mask = random_prompts(generator, [7, 3, 5], VOCAB_SIZE)
    (target, target_calls), (draft, draft_calls) = watched(TARGET), watched(DRAFT)
    decoder = SpeculativeDecoder(target, trie, ModelDrafter(4, 1), draft=draft, max_prompt_tokens=7)
    for calls in (target_calls, draft_calls):
        calls.clear()  # those of the probe
    decoded = decoder(prompts, mask, 3)
    assert decoded.target_shapes == target_calls
    assert decoded.draft_shapes == draft_calls
    assert len(target_calls) == int(decoded.target_calls.max()) > 1
