"""Strict answers equal ``transformers.generate``, whatever the model, trie, drafter, width, batch and padding."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from atspeed.benchmark import HFGenerate
from atspeed.decoding import (
    Decoded,
    Drafter,
    HybridDrafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    SpeculativeDecoder,
    TrieDrafter,
)
from atspeed.decoding.execution import Execution
from tests.decoding.priced import PRICED
from tests.decoding.tiny import (
    END_TOKEN,
    FAMILIES,
    WINDOWED,
    random_prompts,
    random_sids,
    random_titles,
    tiny_model,
)

SCORE_TOLERANCE = 1e-4
TIE = 1e-5
IMPOSSIBLE = -1e8  # below: what ``generate`` fills up with
DRAFTERS = {
    "none": NoDrafter(),
    "trie": TrieDrafter(),
    "trie, tiny budget": TrieDrafter(max_nodes=5),
    "hybrid": HybridDrafter(max_nodes=40),
    "hybrid, tiny budget": HybridDrafter(max_nodes=3),
    "draft": ModelDrafter(draft_beams=4, gamma=3),
    "draft, wide": ModelDrafter(draft_beams=50, gamma=1),
    **PRICED,
}
thorough = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


def assert_equals_generate(
    target: PreTrainedModel,
    sids: torch.Tensor,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    num_beams: int,
    drafter: Drafter,
    draft: PreTrainedModel,
    end_token: int | None = None,
    execution: Execution | None = None,
) -> None:
    trie = ItemTrie(sids)
    expected_codes, expected_scores = HFGenerate(target, sids, end_token=end_token)(prompts, mask, num_beams)
    decoded = SpeculativeDecoder(target, trie, drafter, draft=draft, execution=execution)(prompts, mask, num_beams)
    assert_same_answers(trie, decoded, expected_codes, expected_scores)


def assert_same_answers(
    trie: ItemTrie, decoded: Decoded, expected_codes: torch.Tensor, expected_scores: torch.Tensor
) -> None:
    """Compare answers with those of :class:`HFGenerate`."""
    width = min(expected_scores.shape[1], trie.num_leaves)
    assert decoded.leaves.shape == (len(expected_scores), width)
    codes = trie.tokens(decoded.leaves)
    for row in range(len(expected_scores)):
        found = decoded.scores[row] > -torch.inf
        assert found.equal(expected_scores[row, :width] > IMPOSSIBLE)
        assert trie.is_leaf(decoded.leaves[row, found]).all(), "every answer is a whole semantic ID"
        scores = decoded.scores[row, found]
        torch.testing.assert_close(scores, expected_scores[row, :width][found], atol=SCORE_TOLERANCE, rtol=0)
        ours = {tuple(sid): score for sid, score in zip(codes[row, found].tolist(), scores.tolist(), strict=True)}
        last = min(ours.values())  # an answer that ties with the last one may fall out
        for mine, theirs in zip(ours, expected_codes[row].tolist(), strict=False):
            assert mine == tuple(theirs) or abs(ours[mine] - ours.get(tuple(theirs), last)) < TIE


@pytest.mark.parametrize("family", FAMILIES)
@thorough
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    num_items=st.integers(1, 60),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from([1, 2, 3, 5, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    draft_family=st.sampled_from(sorted(FAMILIES)),
    draft_seed=st.integers(0, 1),
)
def test_strict_answers_equal_generate(family: str, **case: Any) -> None:
    assert_case_equals_generate(family, **case)


def assert_case_equals_generate(
    family: str,
    seed: int,
    num_codes: list[int],
    num_items: int,
    lengths: list[int],
    num_beams: int,
    drafter: str,
    draft_family: str,
    draft_seed: int,  # 0 and the same family: the target itself
    execution: Execution | None = None,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_sids(generator, num_items, num_codes)
    prompts, mask = random_prompts(generator, lengths, 12)
    target, draft = tiny_model(family, 12), tiny_model(draft_family, 12, seed=draft_seed)
    assert_equals_generate(target, sids, prompts, mask, num_beams, DRAFTERS[drafter], draft, execution=execution)


@pytest.mark.parametrize("family", WINDOWED)
@settings(thorough, max_examples=12)
@given(
    seed=st.integers(0, 2**31),
    window=st.sampled_from([8, 13, 64]),
    num_codes=st.lists(st.integers(2, 7), min_size=1, max_size=4),
    beyond=st.integers(1, 24),
    other_lengths=st.lists(st.integers(1, 80), max_size=2),
    num_beams=st.sampled_from([1, 3, 10]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    draft_family=st.sampled_from(sorted(WINDOWED)),
)
def test_strict_answers_under_a_window_shorter_than_the_prompt_equal_generate(
    family: str,
    seed: int,
    window: int,
    num_codes: list[int],
    beyond: int,
    other_lengths: list[int],
    num_beams: int,
    drafter: str,
    draft_family: str,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_sids(generator, 40, num_codes)
    prompts, mask = random_prompts(generator, [window + beyond, *other_lengths], 12)
    target, draft = tiny_model(family, 12, window=window), tiny_model(draft_family, 12, seed=1, window=8)
    assert_equals_generate(target, sids, prompts, mask, num_beams, DRAFTERS[drafter], draft)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@thorough
@given(
    seed=st.integers(0, 2**31),
    longest=st.integers(1, 6),
    num_items=st.integers(1, 60),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from([1, 2, 3, 5, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    draft_seed=st.integers(0, 1),
)
def test_identifiers_of_different_lengths_equal_generate_with_an_end_token(
    family: str,
    seed: int,
    longest: int,
    num_items: int,
    lengths: list[int],
    num_beams: int,
    drafter: str,
    draft_seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_titles(generator, num_items, longest, 12)
    prompts, mask = random_prompts(generator, lengths, 12)
    target, draft = tiny_model(family, 12), tiny_model("llama", 12, seed=draft_seed)
    assert_equals_generate(target, sids, prompts, mask, num_beams, DRAFTERS[drafter], draft, END_TOKEN)


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_a_catalog_with_8000_first_codes(drafter: str) -> None:
    generator = torch.Generator().manual_seed(0)
    sids = torch.stack(
        [torch.randperm(8000, generator=generator) + 3, *torch.randint(3, 8003, (2, 8000), generator=generator)], 1
    )
    prompts, mask = random_prompts(generator, [6, 3], 8003)
    target, draft = (tiny_model("llama", 8003, seed=seed) for seed in range(2))
    assert_equals_generate(target, sids, prompts, mask, 20, DRAFTERS[drafter], draft)
