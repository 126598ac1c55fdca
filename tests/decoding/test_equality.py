"""Strict answers equal ``transformers.generate``, whatever the model, trie, drafter, width, batch and padding."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from atspeed.benchmark import HFGenerate
from atspeed.decoding import Drafter, ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from tests.decoding.tiny import FAMILIES, random_prompts, random_sids, tiny_model

SCORE_TOLERANCE = 1e-4
TIE = 1e-5


def assert_equals_generate(
    target: PreTrainedModel,
    sids: torch.Tensor,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    num_beams: int,
    drafter: Drafter,
    draft: PreTrainedModel | None,
) -> None:
    trie = ItemTrie(sids)
    expected_tokens, expected_scores = HFGenerate(target, sids)(prompts, mask, num_beams)
    decoded = SpeculativeDecoder(target, trie, drafter, draft=draft)(prompts, mask, num_beams)
    width = min(num_beams, trie.num_leaves)
    assert decoded.leaves.shape == (len(prompts), width)
    assert (decoded.leaves >= trie.depth_start[-2]).all(), "every answer is a whole semantic ID"
    tokens = trie.codes(decoded.leaves)
    torch.testing.assert_close(decoded.scores, expected_scores[:, :width], atol=SCORE_TOLERANCE, rtol=0)
    for row in range(len(prompts)):
        ours = {
            tuple(codes): score for codes, score in zip(tokens[row].tolist(), decoded.scores[row].tolist(), strict=True)
        }
        last = decoded.scores[row, -1].item()  # an answer that ties with the last one may fall out
        for mine, theirs in zip(ours, expected_tokens[row].tolist(), strict=False):
            assert mine == tuple(theirs) or abs(ours[mine] - ours.get(tuple(theirs), last)) < TIE


DRAFTERS = {
    "none": (NoDrafter(), False),
    "trie": (TrieDrafter(), False),
    "trie, tiny budget": (TrieDrafter(max_nodes=5), False),
    "draft": (ModelDrafter(draft_beams=4, gamma=3), True),
    "draft, wide": (ModelDrafter(draft_beams=50, gamma=1), True),
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(
    seed=st.integers(0, 2**31),
    num_codes=st.lists(st.integers(1, 7), min_size=2, max_size=5),
    num_items=st.integers(1, 60),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    num_beams=st.sampled_from([1, 2, 3, 5, 10, 70]),
    drafter=st.sampled_from(sorted(DRAFTERS)),
    same_draft=st.booleans(),
)
def test_strict_answers_equal_generate(
    family: str,
    seed: int,
    num_codes: list[int],
    num_items: int,
    lengths: list[int],
    num_beams: int,
    drafter: str,
    same_draft: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vocab_size = 12
    sids = random_sids(generator, num_items, num_codes)
    prompts, mask = random_prompts(generator, lengths, vocab_size)
    policy, needs_draft = DRAFTERS[drafter]
    target = tiny_model(family, vocab_size)
    draft = (target if same_draft else tiny_model("llama", vocab_size, seed=1)) if needs_draft else None
    assert_equals_generate(target, sids, prompts, mask, num_beams, policy, draft)
