import copy
import logging

import pytest
import torch

from atspeed.decoding import (
    ROOT,
    Drafter,
    HybridDrafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    Proposal,
    SpeculativeDecoder,
    TrieDrafter,
    Verifier,
)
from atspeed.decoding.beams import Beams, select_top
from atspeed.decoding.drafters.drafter import Select
from atspeed.decoding.scorer import PrefixScorer
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 40
SIDS = random_sids(torch.Generator().manual_seed(0), 300, [6, 8, 8, 8])
TRIE = ItemTrie(SIDS)
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [9, 4, 6], VOCAB_SIZE)
TARGET, OTHER = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, seed=1)


def test_plain_search_needs_a_call_a_level() -> None:
    decoded = SpeculativeDecoder(TARGET, TRIE, NoDrafter())(PROMPTS, MASK, 5)
    assert decoded.target_calls.tolist() == [4, 4, 4]
    assert decoded.accepted_levels.tolist() == decoded.drafted_levels.tolist() == [0, 0, 0]


def test_a_perfect_draft_needs_one_target_call() -> None:
    drafter = ModelDrafter(draft_beams=5, gamma=3)
    decoded = SpeculativeDecoder(TARGET, TRIE, drafter, draft=TARGET, normalize="allowed")(PROMPTS, MASK, 5)
    assert decoded.target_calls.tolist() == [1, 1, 1]
    assert decoded.draft_calls.tolist() == [3, 3, 3]
    assert decoded.accepted_levels.tolist() == decoded.drafted_levels.tolist() == [3, 3, 3]


def test_what_a_draft_gives_to_tokens_that_are_not_legal_does_not_matter() -> None:
    """An alignment over legal codes leaves it open: here the draft gives nearly all to the padding token."""
    draft = copy.deepcopy(TARGET)
    with torch.no_grad():
        draft.lm_head.weight[0] *= 300
    drafter = ModelDrafter(draft_beams=5, gamma=3)
    decoded = SpeculativeDecoder(TARGET, TRIE, drafter, draft=draft, normalize="allowed")(PROMPTS, MASK, 5)
    plain = SpeculativeDecoder(TARGET, TRIE, drafter, draft=draft)(PROMPTS, MASK, 5)
    twin = SpeculativeDecoder(TARGET, TRIE, drafter, draft=TARGET)(PROMPTS, MASK, 5)
    assert decoded.target_calls.tolist() == [1, 1, 1]
    assert plain.target_calls.equal(twin.target_calls)


def test_a_trie_that_fits_the_budget_needs_one_target_call() -> None:
    decoded = SpeculativeDecoder(TARGET, TRIE, TrieDrafter(max_nodes=TRIE.num_nodes))(PROMPTS, MASK, 5)
    assert decoded.target_calls.tolist() == [1, 1, 1]


def test_a_narrow_draft_is_rejected_and_costs_no_more_than_plain() -> None:
    decoded = SpeculativeDecoder(TARGET, TRIE, ModelDrafter(draft_beams=2, gamma=3), draft=OTHER)(PROMPTS, MASK, 10)
    assert (decoded.target_calls <= 4).all()
    assert (decoded.accepted_levels < decoded.drafted_levels).all()
    assert (decoded.accepted_levels + decoded.target_calls == 4).all(), "each level came with a call or was accepted"


class WrongDrafter(Drafter):
    """Proposes nodes at random, with and without their ancestors, again and again."""

    def propose(self, beams: Beams, target: PrefixScorer, draft: PrefixScorer | None, select: Select) -> Proposal:
        size, generator = (len(beams.nodes), 30), torch.Generator().manual_seed(2)
        return Proposal(torch.randint(0, target.trie.num_nodes, size, generator=generator), [])


def test_answers_are_the_same_alone_in_a_batch_and_with_any_drafter() -> None:
    plain = SpeculativeDecoder(TARGET, TRIE, NoDrafter())
    expected = [
        plain(PROMPTS[row : row + 1, -length:], MASK[row : row + 1, -length:], 8)
        for row, length in enumerate([9, 4, 6])
    ]
    for drafter in (
        NoDrafter(),
        TrieDrafter(20),
        TrieDrafter(),
        HybridDrafter(20),
        HybridDrafter(),
        WrongDrafter(),
        ModelDrafter(3, 2),
        ModelDrafter(100, 3),
    ):
        decoded = SpeculativeDecoder(TARGET, TRIE, drafter, draft=OTHER)(PROMPTS, MASK, 8)
        for row in range(3):
            assert decoded.leaves[row].tolist() == expected[row].leaves[0].tolist()
            torch.testing.assert_close(decoded.scores[row], expected[row].scores[0], atol=1e-5, rtol=0)


def test_requests_that_are_done_leave_the_others_going_on() -> None:
    prompts, mask = random_prompts(torch.Generator().manual_seed(3), [9, 4, 6, 8, 5, 7, 3, 2], VOCAB_SIZE)
    decoded = SpeculativeDecoder(TARGET, TRIE, ModelDrafter(draft_beams=5, gamma=3), draft=OTHER)(prompts, mask, 2)
    calls = decoded.target_calls.tolist()
    assert len(set(calls)) > 1, "the case must have requests of different speed"
    assert calls.count(max(calls)) > 1, "and more than one that stays"
    expected = SpeculativeDecoder(TARGET, TRIE, NoDrafter())(prompts, mask, 2)
    assert decoded.leaves.equal(expected.leaves)
    torch.testing.assert_close(decoded.scores, expected.scores, atol=1e-5, rtol=0)


def test_more_beams_than_semantic_ids_give_all_of_them(caplog: pytest.LogCaptureFixture) -> None:
    trie = ItemTrie(SIDS[:5])
    with caplog.at_level(logging.INFO):
        decoded = SpeculativeDecoder(TARGET, trie, TrieDrafter())(PROMPTS, MASK, 987)
    assert decoded.leaves.sort().values.tolist() == [list(range(trie.depth_start[-2], trie.num_nodes))] * 3
    assert f"num_beams is 987, the catalog has {trie.num_leaves} semantic IDs: all are returned" in caplog.text


@pytest.mark.parametrize("sids", [torch.tensor([[5, 6, 7]]), torch.tensor([[5], [6], [5]])])
def test_single_item_and_single_level_catalogs(sids: torch.Tensor) -> None:
    for drafter in (NoDrafter(), TrieDrafter(), ModelDrafter(4, 2)):
        decoded = SpeculativeDecoder(TARGET, ItemTrie(sids), drafter, draft=OTHER)(PROMPTS, MASK, 3)
        assert decoded.leaves.shape == (3, len(sids.unique(dim=0)))


class IdleVerifier(Verifier):
    name = "idle"

    def advance(self, beams: Beams, *_: object) -> Beams:
        return beams


def test_a_verifier_that_does_not_go_on_is_named() -> None:
    with pytest.raises(RuntimeError, match="IdleVerifier left a request where it was"):
        SpeculativeDecoder(TARGET, TRIE, NoDrafter(), IdleVerifier())(PROMPTS, MASK, 3)


def test_a_search_is_over_when_no_prefix_can_become_better_than_the_results() -> None:
    nodes, leaves = torch.tensor([[7, 8], [7, 8], [7, 8]]), torch.tensor([[3, 4], [3, 4], [3, ROOT]])
    scores = torch.tensor([[-2.0, -3.0], [-1.0, -9.0], [-8.0, -9.0]])
    leaf_scores = torch.tensor([[-0.5, -2.0], [-0.5, -2.0], [-0.5, -torch.inf]])
    beams = Beams(nodes, scores, leaves, leaf_scores, depth=torch.ones(3), loss_bound=torch.zeros(3))
    assert beams.is_open.tolist() == [False, True, True]


def test_ties_go_to_the_smaller_node() -> None:
    nodes, scores = select_top(torch.tensor([[7, 5, 6, 4]]), torch.tensor([[-1.0, -0.5, -1.0, -1.0]]), 3)
    assert nodes.tolist() == [[5, 4, 6]]
    assert scores.tolist() == [[-0.5, -1.0, -1.0]]
    assert select_top(torch.tensor([[9, 8]]), torch.tensor([[0.0, -0.0]]), 1)[0].tolist() == [[8]]


def test_a_score_above_0_counts_as_0() -> None:
    """Rounding may lift one; its bits would order as those of a very bad score."""
    nodes, scores = select_top(torch.tensor([[9, 8, 7]]), torch.tensor([[-0.5, 1e-7, 0.0]]), 3)
    assert nodes.tolist() == [[7, 8, 9]]
    assert scores.tolist() == [[0.0, 0.0, -0.5]]


def test_padding_is_the_root() -> None:
    nodes, scores = select_top(torch.tensor([[4, 5]]), torch.tensor([[-1.0, -torch.inf]]), 3)
    assert nodes.tolist() == [[4, ROOT, ROOT]]
    assert scores.tolist() == [[-1.0, -torch.inf, -torch.inf]]


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="num_beams is 0; expected 1 or more"):
        SpeculativeDecoder(TARGET, TRIE, NoDrafter())(PROMPTS, MASK, 0)
    with pytest.raises(ValueError, match="ModelDrafter needs a draft model"):
        SpeculativeDecoder(TARGET, TRIE, ModelDrafter())
    with pytest.raises(ValueError, match="the draft knows tokens from 0 to 4"):
        SpeculativeDecoder(TARGET, TRIE, ModelDrafter(), draft=tiny_model("gpt2", 5))
    with pytest.raises(ValueError, match="max_nodes is 0"):
        TrieDrafter(0)
    with pytest.raises(ValueError, match="draft_beams is 0"):
        ModelDrafter(draft_beams=0)
    with pytest.raises(ValueError, match="gamma is 0"):
        ModelDrafter(gamma=0)
