import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from atspeed.benchmark.phases import PHASES, Stopwatch, measure_phases
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, forward
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
SLOW = 0.05  # seconds
TRIE = ItemTrie(random_sids(torch.Generator().manual_seed(0), 200, [5, 6, 7]))
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [7, 3], VOCAB_SIZE)
BATCH = RequestBatch(torch.zeros(2), PROMPTS, MASK, PROMPTS, MASK, torch.zeros(2, 1), torch.zeros(2))
TARGET, DRAFT = tiny_model("llama", VOCAB_SIZE), tiny_model("gpt2", VOCAB_SIZE)


def test_time_is_charged_to_the_phase_that_was_entered_last() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.enter("outer")
    time.sleep(0.02)
    watch.enter("inner")
    time.sleep(0.05)
    watch.leave()
    time.sleep(0.02)
    watch.leave()
    time.sleep(0.05)
    assert watch.seconds["outer"] == pytest.approx(0.04, abs=0.015)
    assert watch.seconds["inner"] == pytest.approx(0.05, abs=0.015)


def test_phases_add_up_to_the_whole_and_leave_nothing_behind() -> None:
    decoder = SpeculativeDecoder(TARGET, TRIE, ModelDrafter(4, 2), draft=DRAFT)
    decoder(PROMPTS, MASK, 3)
    start = time.perf_counter()
    phases = measure_phases(decoder, [BATCH] * 10, 3)
    total = 100 * (time.perf_counter() - start)  # milliseconds per batch
    assert set(phases) == set(PHASES)
    assert all(value > 0 for value in phases.values())
    assert sum(phases.values()) == pytest.approx(total, rel=0.1)
    assert not TARGET._forward_hooks
    assert not TARGET._forward_pre_hooks
    assert not {"propose", "advance"} & (vars(decoder.drafter).keys() | vars(decoder.verifier).keys())


def test_plain_search_spends_nothing_on_a_draft() -> None:
    phases = measure_phases(SpeculativeDecoder(TARGET, TRIE, NoDrafter()), [BATCH], 3)
    assert phases["draft"] == 0
    assert phases["target"] > 0


def test_a_head_that_is_called_by_itself_counts_as_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "MAX_LOGITS", 1)
    decoder = SpeculativeDecoder(TARGET, TRIE, NoDrafter(), max_prompt_tokens=PROMPTS.shape[1])
    monkeypatch.setattr(TARGET.model, "forward", slowed(TARGET.model.forward))
    monkeypatch.setattr(TARGET.lm_head, "forward", slowed(TARGET.lm_head.forward))
    phases = measure_phases(decoder, [BATCH], 1)
    assert phases["target"] > 1000 * SLOW * (TRIE.num_levels * 2), "a call of the base and of the head at every level"
    assert phases["rest"] < phases["target"] / 2


def slowed(function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        time.sleep(SLOW)
        return function(*args, **kwargs)

    return call
