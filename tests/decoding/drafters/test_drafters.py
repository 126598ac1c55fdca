"""What drafters propose, and what it costs."""

import copy
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atspeed.decoding import (
    ROOT,
    Beams,
    HybridDrafter,
    ItemTrie,
    ModelDrafter,
    NoDrafter,
    PrefixScorer,
    SpeculativeDecoder,
    StrictTopK,
    TrieDrafter,
    next_beams,
    search,
)
from atspeed.decoding.beams import select_top
from atspeed.decoding.cost import measure_budget
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 40
SIDS = random_sids(torch.Generator().manual_seed(0), 300, [6, 8, 8, 8])
TRIE = ItemTrie(SIDS)
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [9, 4, 6], VOCAB_SIZE)
TARGET, OTHER = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, seed=1)


def scorers(trie: ItemTrie = TRIE) -> tuple[PrefixScorer, PrefixScorer]:
    target, draft = (PrefixScorer(model, trie, PROMPTS, MASK) for model in (TARGET, OTHER))
    return target, draft


def beams_at(depth: int, target: PrefixScorer, width: int = 3) -> Beams:
    beams = Beams.at_root(len(PROMPTS), width, PROMPTS.device)
    for _ in range(depth):
        target.score(beams.nodes)
        beams = next_beams(target, beams)
    return beams


def nodes_of(row: torch.Tensor) -> set[int]:
    return set(row.tolist()) - {ROOT}


@torch.no_grad()
def test_the_trie_drafter_takes_whole_levels_from_the_root() -> None:
    first, second = TRIE.depth_start[2] - 1, TRIE.depth_start[3] - 1
    for budget, end in ((first - 1, 0), (first, first), (second - 1, first), (second, second)):
        target, _ = scorers()
        proposed = TrieDrafter(budget).propose(beams_at(0, target), target, None, select_top).nodes
        assert [nodes_of(row) for row in proposed] == [set(range(1, end + 1))] * 3


@torch.no_grad()
def test_the_trie_drafter_cuts_a_level_of_which_half_fits_to_the_likeliest_if_items_are_equal() -> None:
    target, _ = scorers()
    beams = beams_at(1, target)
    for row in range(3):
        scores = {}
        for beam, score in zip(beams.nodes[row].tolist(), beams.scores[row].tolist(), strict=True):
            for child in range(*TRIE.first_child[beam : beam + 2].tolist()):
                scores[child] = score + math.log(int(TRIE.num_items[child]) / int(TRIE.num_items[beam]))
        ranked = sorted(scores, key=lambda node: (-scores[node], node))
        for budget in (len(ranked) - 1, (len(ranked) + 1) // 2, (len(ranked) - 1) // 2):
            proposed = nodes_of(TrieDrafter(budget).propose(beams, target, None, select_top).nodes[row])
            assert proposed == (set(ranked[:budget]) if 2 * budget >= len(ranked) else set())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(0, 2**31), st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 80), st.integers(0, 2)
)
@torch.no_grad()
def test_budgets_hold_and_every_node_comes_with_its_ancestors(
    seed: int, num_codes: list[int], budget: int, depth: int
) -> None:
    trie = ItemTrie(random_sids(torch.Generator().manual_seed(seed), 90, num_codes))
    depth = min(depth, trie.num_levels - 1)
    for drafter in (TrieDrafter(budget), HybridDrafter(budget)):
        target, draft = scorers(trie)
        beams = beams_at(depth, target)
        for row, known in zip(drafter.propose(beams, target, draft, select_top).nodes, beams.nodes, strict=True):
            proposed = nodes_of(row)
            assert len(proposed) <= budget
            assert len(proposed) == int((row != ROOT).sum()), "no node twice"
            assert not trie.is_leaf(torch.tensor([*proposed, ROOT])).any()
            for node in proposed:
                assert int(trie.parent[node]) in proposed | set(known.tolist()) | {ROOT}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**31), st.integers(1, 120))
@torch.no_grad()
def test_the_hybrid_adds_to_the_levels_that_the_trie_takes_whole(seed: int, budget: int) -> None:
    trie = ItemTrie(random_sids(torch.Generator().manual_seed(seed), 200, [6, 9, 9, 3]))
    target, draft = scorers(trie)
    beams = beams_at(0, target)
    by_trie, by_both = (
        drafter.propose(beams, target, draft, select_top).nodes
        for drafter in (TrieDrafter(budget), HybridDrafter(budget))
    )
    assert all(nodes_of(ours) <= nodes_of(both) for ours, both in zip(by_trie, by_both, strict=True))


def test_a_perfect_draft_makes_the_hybrid_need_one_target_and_one_draft_call() -> None:
    budget = TRIE.depth_start[2] + 60
    trie = SpeculativeDecoder(TARGET, TRIE, TrieDrafter(budget))(PROMPTS, MASK, 3)
    assert (trie.target_calls == 2).all()
    # an untrained target gives much to codes that are not legal, which a draft's scores leave out
    settings = {"draft": TARGET, "normalize": "allowed"}
    hybrid = SpeculativeDecoder(TARGET, TRIE, HybridDrafter(budget), **settings)(PROMPTS, MASK, 3)  # type: ignore[arg-type]
    assert hybrid.target_calls.tolist() == hybrid.draft_calls.tolist() == [1, 1, 1]


@torch.no_grad()
def test_the_hybrid_takes_the_drafts_best_prefixes_with_their_subtrees() -> None:
    target, draft = scorers()
    level = set(range(1, TRIE.depth_start[2]))
    budget = len(level) + 20
    proposed = HybridDrafter(budget).propose(beams_at(0, target), target, draft, select_top).nodes
    _, reference = scorers()
    beams = Beams.at_root(3, 40, PROMPTS.device)
    for _ in range(2):
        reference.score(beams.nodes)
        beams = next_beams(reference, beams)  # 40 of 6 first codes: the exact best of the second level
    for row in range(3):
        expected, left = set(level), 20
        for prefix in beams.nodes[row].tolist():
            below = [node for node in range(*TRIE.depth_start[3:5]) if int(TRIE.parent[node]) == prefix]
            left -= 1 + len(below)
            if left < 0:
                break
            expected |= {prefix, *below}
        assert nodes_of(proposed[row]) == expected


@torch.no_grad()
def test_the_hybrid_ranks_by_the_targets_scores_of_the_beams_and_its_own_below() -> None:
    target, draft = scorers()
    beams = beams_at(1, target)
    budget = 20
    proposed = HybridDrafter(budget).propose(beams, target, draft, select_top).nodes
    for row in range(3):
        scores = {}
        for beam, score in zip(beams.nodes[row].tolist(), beams.scores[row].tolist(), strict=True):
            children = torch.arange(*TRIE.first_child[beam : beam + 2].tolist())
            own = draft.log_probs(children.expand(3, -1))[row]
            scores |= {c: score + lp for c, lp in zip(children.tolist(), own.tolist(), strict=True)}
        assert len(scores) > budget
        expected: set[int] = set()
        for prefix in sorted(scores, key=lambda node: -scores[node]):
            below = [node for node in range(*TRIE.depth_start[3:5]) if int(TRIE.parent[node]) == prefix]
            if len(expected) + 1 + len(below) > budget:
                break
            expected |= {prefix, *below}
        assert len(expected & scores.keys()) >= 3, "fewer subtrees would give way to prefixes alone"
        assert nodes_of(proposed[row]) == expected


@torch.no_grad()
def test_the_hybrid_asks_the_draft_only_for_requests_that_need_it() -> None:
    sids = [[3, code, 5, 5] for code in range(3, 33)] + [[4, 3, 5, 5]]
    trie = ItemTrie(torch.tensor(sids))
    target, draft = scorers(trie)
    beams = beams_at(1, target, 1)
    wide, narrow = 1, 2
    beams = beams._replace(nodes=torch.tensor([[wide], [narrow], [wide]]))
    draft.score(torch.tensor([[ROOT]] * 3))
    HybridDrafter(20).propose(beams, target, draft, select_top)
    assert draft.calls.tolist() == [2, 1, 2]


@torch.no_grad()
def test_the_hybrid_takes_prefixes_alone_where_too_few_subtrees_would_fit() -> None:
    trie = ItemTrie(random_sids(torch.Generator().manual_seed(0), 3000, [3, 30, 30, 2]))
    target, draft = scorers(trie)
    proposed = HybridDrafter(23).propose(beams_at(0, target, 10), target, draft, select_top).nodes
    depths = [trie.depth(row[row != ROOT]) for row in proposed]
    assert [row.tolist().count(2) for row in depths] == [20, 20, 20]
    assert all(row.max() == 2 for row in depths)


def test_the_draft_scores_what_it_has_missed_before_it_goes_on() -> None:
    # It proposes a level a round, and the target goes two: the draft has not scored what it proposed last.
    decoded = SpeculativeDecoder(TARGET, TRIE, ModelDrafter(12, 1), draft=TARGET)(PROMPTS, MASK, 3)
    assert decoded.target_calls.tolist() == [2, 2, 2]


@torch.no_grad()
def test_the_targets_scores_take_the_place_of_the_drafts() -> None:
    target, draft = scorers()
    beams = beams_at(1, target)
    (nodes, scores), *_ = ModelDrafter(5, 1).propose(beams, target, draft, select_top).drawn
    log_probs = draft.log_probs(nodes)
    of_beam = dict(zip(beams.nodes[0].tolist(), beams.scores[0].tolist(), strict=True))
    for node, score, log_prob in zip(nodes[0].tolist(), scores[0].tolist(), log_probs[0].tolist(), strict=True):
        assert score == pytest.approx(of_beam[int(TRIE.parent[node])] + log_prob, abs=1e-5)


def test_no_prefix_goes_through_a_model_twice() -> None:
    for drafter in (NoDrafter(), TrieDrafter(30), HybridDrafter(40), ModelDrafter(5, 2), ModelDrafter(5, 3)):
        for row, length in enumerate([9, 4, 6]):
            target_model, draft_model = copy.deepcopy(TARGET), copy.deepcopy(OTHER)
            tokens = {target_model: 0, draft_model: 0}

            def count(model: torch.nn.Module, _: object, inputs: dict, tokens: dict = tokens) -> None:
                tokens[model] += inputs["input_ids"].shape[1]

            prompt = PROMPTS[row : row + 1, -length:]
            target, draft = (
                PrefixScorer(model, TRIE, prompt, torch.ones_like(prompt, dtype=torch.bool)) for model in tokens
            )
            for model in tokens:
                model.register_forward_pre_hook(count, with_kwargs=True)
            with torch.no_grad():
                decoded = search(target, draft, drafter, StrictTopK(), 6)
            assert int(decoded.target_calls) > 1 or type(drafter) is TrieDrafter, "the case must have rejections"
            for scorer in (target, draft):
                if int(scorer.calls):
                    scored = scorer.nodes[0].tolist()
                    assert len(scored) == len(set(scored))
                    assert tokens[scorer.model] == length + len(scored) - 1, "the prompt, and each prefix once"


def test_an_automatic_budget_is_measured_once_and_grows_with_what_may_be_spent() -> None:
    model = copy.deepcopy(TARGET)
    assert measure_budget(model, 1e9) == 1024
    assert measure_budget(model, 0.5) < 1024, "64 times the tokens of a prompt cost more, even here"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", None)  # a second measurement would fail
        budgets = [measure_budget(model, share) for share in (0, 0.5, 2, 1e9)]
    assert budgets == sorted(budgets)
    drafter = TrieDrafter("auto", extra_cost=1e9)
    SpeculativeDecoder(model, TRIE, drafter)
    assert drafter.budget == 1024


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="max_nodes is 0"):
        HybridDrafter(0)
    with pytest.raises(ValueError, match="extra_cost is -1; expected 0 or more"):
        TrieDrafter("auto", -1)
    with pytest.raises(ValueError, match="HybridDrafter needs a draft model"):
        SpeculativeDecoder(TARGET, TRIE, HybridDrafter())
