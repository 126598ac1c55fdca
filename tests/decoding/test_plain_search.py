"""Plain beam search scores its beams by a way of its own, with fewer operations; here both ways side by side."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from atspeed.decoding import ItemFilter, ItemTrie, NoDrafter, PrefixScorer, SpeculativeDecoder, StrictTopK, search
from tests.decoding.tiny import random_prompts, random_sids, random_titles, tiny_model

VOCAB_SIZE = 12
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [7, 3, 5, 1], VOCAB_SIZE)
MOST_OPERATIONS = 360


@pytest.mark.parametrize("num_beams", [1, 4, 30])  # more than there are first codes
@pytest.mark.parametrize("share_wanted", [0.2, 1.0])
@pytest.mark.parametrize("has_one_length", [True, False])
@torch.no_grad()
def test_beams_are_scored_as_any_other_nodes(has_one_length: bool, share_wanted: float, num_beams: int) -> None:
    generator = torch.Generator().manual_seed(num_beams)
    sids = random_sids(generator, 60, [5, 4, 6, 3]) if has_one_length else random_titles(generator, 60, 4, VOCAB_SIZE)
    trie = ItemTrie(sids)
    allowed = ItemFilter(torch.rand(4, 60, generator=generator) < share_wanted).node_mask(trie, 4)
    found = []
    for looks_up in (False, True):
        scorer = PrefixScorer(tiny_model("llama", VOCAB_SIZE), trie, PROMPTS, MASK, allowed=allowed)
        if looks_up:
            scorer.score_beams = scorer.score  # type: ignore[method-assign]
        decoded = search(scorer, None, NoDrafter(), StrictTopK(), num_beams)
        assert scorer.only_beams is not looks_up
        assert not decoded.accepted.any()
        assert not decoded.drafted.any()
        found.append(decoded)
    ours, others = found
    assert ours.leaves.equal(others.leaves)
    assert ours.target_calls.equal(others.target_calls)
    assert ours.target_shapes == others.target_shapes
    torch.testing.assert_close(ours.scores, others.scores, atol=1e-5, rtol=0)


class Operations(TorchDispatchMode):
    """Counts tensor operations outside a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.count = 0
        self._inside = False
        model.register_forward_pre_hook(lambda *_: setattr(self, "_inside", True))
        model.register_forward_hook(lambda *_: setattr(self, "_inside", False))

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not self._inside
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_beams", [1, 20])
def test_a_request_takes_few_operations_outside_the_model(num_beams: int) -> None:
    """750 before beams were scored by themselves; each takes microseconds, as what it needs is in no cache."""
    trie = ItemTrie(random_sids(torch.Generator().manual_seed(0), 300, [30, 8, 8, 8]))
    model = copy.deepcopy(tiny_model("llama", 40))
    decode = SpeculativeDecoder(model, trie, NoDrafter(), max_prompt_tokens=7)
    with Operations(model) as operations:
        assert decode(PROMPTS[:1], MASK[:1], num_beams).leaves.shape == (1, num_beams)
    assert 0 < operations.count <= MOST_OPERATIONS
