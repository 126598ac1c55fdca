"""Bounded verification: what it promises of its answers, and its rule against one in plain Python."""

from math import exp, inf, log

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from atspeed.decoding import (
    Beams,
    BoundedTopK,
    Decoded,
    Drafter,
    HybridDrafter,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    Proposal,
    ScoredPrefixes,
    SpeculativeDecoder,
    StrictTopK,
    TrieDrafter,
    Verifier,
)
from tests.decoding.priced import PRICED
from tests.decoding.tiny import random_prompts, random_sids, random_titles, tiny_model

VOCAB_SIZE = 12
TARGET, OTHER = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, seed=1)
DRAFTERS: dict[str, Drafter] = {
    "draft": ModelDrafter(draft_beams=6, gamma=3),
    "draft, narrow": ModelDrafter(draft_beams=3, gamma=2),
    "draft, wide": ModelDrafter(draft_beams=12, gamma=4),
    "hybrid": HybridDrafter(max_nodes=20),
    **PRICED,
    "trie, tiny budget": TrieDrafter(max_nodes=7),
    "trie": TrieDrafter(),
    "none": NoDrafter(),
}
TOLERANCE = 1e-5
thorough = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
Case = tuple[ItemTrie, torch.Tensor, torch.Tensor, torch.Tensor]


def random_catalog(draw: st.DrawFn, generator: torch.Generator) -> torch.Tensor:
    num_items = draw(st.sampled_from([80, 25, 5, 1]))
    if draw(st.booleans()):
        num_codes = draw(st.sampled_from([[5, 6, 7], [2, 4, 7, 8], [7, 1, 6], [8, 8], [6]]))
        return random_sids(generator, num_items, num_codes)
    return random_titles(generator, num_items, draw(st.sampled_from([4, 3, 2, 1])), VOCAB_SIZE)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A catalog, ragged prompts and their mask, and the items that each request allows, all of them in many cases."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sids = random_catalog(draw, generator)
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    wanted = torch.rand(len(lengths), len(sids), generator=generator) < draw(st.sampled_from([1.0, 0.6, 0.1]))
    return ItemTrie(sids), *random_prompts(generator, lengths, VOCAB_SIZE), wanted


def assert_same(ours: tuple[torch.Tensor, torch.Tensor], other: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Leaves and scores ``[K]`` are the same, but for the order of scores that float32 cannot tell apart."""
    torch.testing.assert_close(ours[1], other[1], atol=TOLERANCE, rtol=0)
    scores = other[1].clamp(min=-1e9)
    is_near = (scores[:, None] - scores).abs() < TOLERANCE  # [K, K]
    assert ((ours[0][:, None] == other[0]) & is_near).any(1).all()


@thorough
@given(
    case=cases(),
    num_beams=st.sampled_from([6, 4, 10, 2, 1, 70]),
    name=st.sampled_from(list(DRAFTERS)),
    draft=st.sampled_from([TARGET, OTHER]),
    epsilon=st.sampled_from([0.3, 0.8, 0.05, 0.0]),
    normalize=st.sampled_from(["vocabulary", "allowed"]),
)
def test_answers_above_the_bound_are_the_first_of_the_strict_answer(
    case: Case, num_beams: int, name: str, draft: PreTrainedModel, epsilon: float, normalize: str
) -> None:
    trie, prompts, mask, wanted = case

    def decode(verifier: Verifier, drafter: Drafter, rows: slice = slice(None)) -> Decoded:
        decoder = SpeculativeDecoder(TARGET, trie, drafter, verifier, draft, normalize)  # type: ignore[arg-type]
        item_filter = None if wanted.all() else ItemFilter(wanted[rows])
        return decoder(prompts[rows], mask[rows], num_beams, item_filter)

    plain, strict = decode(StrictTopK(), NoDrafter()), decode(StrictTopK(), DRAFTERS[name])
    bounded = decode(BoundedTopK(epsilon), DRAFTERS[name])
    found = plain.scores > -inf
    assert found.equal(bounded.scores > -inf), "as many answers as strict verification finds"
    assert strict.num_exact.equal(found.sum(1))
    assert strict.loss_bound.eq(-inf).all()
    for row, count in enumerate(bounded.num_exact.tolist()):
        answers = bounded.leaves[row, found[row]].tolist()
        assert len(answers) == len(set(answers))
        assert (bounded.scores[row, :count] > bounded.loss_bound[row]).all()
        assert (bounded.scores[row, count:] <= bounded.loss_bound[row]).all()
        # for count = K: an answer that is certain altogether is the strict one
        assert_same(*((each.leaves[row, :count], each.scores[row, :count]) for each in (bounded, plain)))
        alone = decode(BoundedTopK(epsilon), DRAFTERS[name], slice(row, row + 1))
        assert_same((bounded.leaves[row], bounded.scores[row]), (alone.leaves[0], alone.scores[0]))
        torch.testing.assert_close(bounded.loss_bound[row], alone.loss_bound[0], atol=TOLERANCE, rtol=0)
        if epsilon:  # without tolerance it is strict verification, under which proposals may depend on the batch
            assert bounded.target_calls[row] == alone.target_calls[0]
        assert bounded.num_exact[row] == alone.num_exact[0]
    if epsilon == 0:
        for ours, theirs in zip(vars(bounded).values(), vars(strict).values(), strict=True):
            same = ours.equal(theirs) if isinstance(ours, torch.Tensor) else ours == theirs  # or the sizes of the calls
            assert same, "answers and calls of strict verification, bit for bit"


def test_it_needs_fewer_calls_and_knows_what_it_may_have_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 200, [6, 7, 8, 8]))
    prompts, mask = random_prompts(generator, [9, 4, 6, 8, 5, 7, 3, 2], VOCAB_SIZE)
    calls, exact = [], []
    for epsilon in (0, 0.1, 0.5):
        decoder = SpeculativeDecoder(TARGET, trie, ModelDrafter(8, 3), BoundedTopK(epsilon), OTHER)
        decoded = decoder(prompts, mask, 6)
        calls.append(int(decoded.target_calls.sum()))
        exact.append(decoded.num_exact.tolist())
    assert calls == sorted(calls, reverse=True)
    assert len(set(calls)) == 3
    assert exact[0] == [6] * 8
    assert {6} < set(exact[1]), "the case must lose something in some requests and nothing in others"


def table(trie: ItemTrie, scored: list[list[int]], log_probs: torch.Tensor, allowed: torch.Tensor) -> ScoredPrefixes:
    """What a target's scorer would know: these nodes are scored; ``log_probs`` and ``allowed`` ``[B, M]``."""
    nodes = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in scored], True, padding_value=-1)
    valid, nodes = nodes >= 0, nodes.clamp(min=0)
    children = trie.children(nodes, valid).values
    legal = log_probs.masked_fill(~allowed, -inf).gather(1, children)
    known = ScoredPrefixes.from_child_log_probs(trie, nodes, valid, legal)
    known.allowed = allowed  # type: ignore[attr-defined]
    return known


def advance(known: ScoredPrefixes, num_beams: int, epsilon: float) -> Beams:
    beams = Beams.at_root(len(known.nodes), num_beams, known.nodes.device)
    return BoundedTopK(epsilon).advance(beams, known, None, Proposal(beams.nodes[:, :0], []), beams.depth)  # type: ignore[arg-type]


def test_the_example_of_the_documentation() -> None:
    sids = torch.tensor([[code, item] for code in range(3, 8) for item in (8, 9)])
    trie = ItemTrie(sids)  # node 0 is the root, 1 to 5 are the first codes, 6 to 15 the items
    shares = [[0.5, 0.2, 0.02, 0.01, 0.005], [0.99, 0.01], [0.97, 0.03], [0.9, 0.1], [0.9, 0.1], [0.5, 0.5]]
    log_probs = torch.tensor([[1.0, *(share for shares_below in shares for share in shares_below)]]).log()
    allowed = torch.ones(1, trie.num_nodes, dtype=torch.bool)
    known = table(trie, [[0, 1, 2, 4, 5]], log_probs, allowed)
    beams = advance(known, 3, 0.05)
    assert beams.leaves.tolist() == [[6, 8, 12]]
    assert beams.leaf_scores.exp().tolist() == [pytest.approx([0.495, 0.194, 0.009])]
    assert float(beams.loss_bound) == pytest.approx(log(0.02))
    waiting = advance(known, 3, 0.02)  # 0.02 / 0.72 is more
    assert waiting.nodes.tolist() == [[1, 2, 3]]
    assert waiting.loss_bound.tolist() == [-inf]
    strict = advance(table(trie, [[0, 1, 2, 3]], log_probs, allowed), 3, 0)
    assert strict.leaves.tolist() == [[6, 8, 10]]
    allowed[0, [7, 9, 13, 14, 15, 5]] = False  # of the items below 1, 2 and 4, the three best are left
    assert advance(table(trie, [[0, 1, 2, 4]], log_probs, allowed), 3, 0.05).leaves.tolist() == [[6, 8, 12]]
    allowed[0, [4, 12]] = False  # without 3, there would be two answers instead of three
    assert advance(table(trie, [[0, 1, 2]], log_probs, allowed), 3, 0.05).nodes.tolist() == [[1, 2, 3]]


@thorough
@given(st.data(), st.sampled_from([6, 3, 20, 2, 1]), st.sampled_from([0.2, 0.6, 0.02, 0.95, 0.0]))
def test_the_rule_is_that_of_plain_python(data: st.DataObject, num_beams: int, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    sids = random_catalog(data.draw, generator)
    trie = ItemTrie(sids)
    num_beams = min(num_beams, trie.num_leaves)
    share_scored, share_wanted = data.draw(st.sampled_from([0.5, 0.9])), data.draw(st.sampled_from([0.3, 1.0]))
    allowed = trie.node_mask(torch.rand(3, len(sids), generator=generator) < share_wanted)
    log_probs = 3 * torch.rand(3, trie.num_nodes, generator=generator).log()
    scored: list[list[int]] = []
    for row in range(3):
        kept = torch.rand(trie.num_nodes, generator=generator) < share_scored
        scored.append([0])
        for node in range(1, trie.num_nodes):
            inner = int(trie.num_children[node]) > 0 and bool(allowed[row, node])
            if inner and kept[node] and int(trie.parent[node]) in scored[row]:
                scored[row].append(node)
    beams = advance(table(trie, scored, log_probs, allowed), num_beams, epsilon)
    for row in range(3):
        prefixes, leaves, bound = expected(
            trie, set(scored[row]), log_probs[row].tolist(), allowed[row].tolist(), num_beams, epsilon
        )
        for ours, ours_scores, theirs in (
            (beams.nodes[row], beams.scores[row], prefixes),
            (beams.leaves[row], beams.leaf_scores[row], leaves),
        ):
            count = int((ours_scores > -inf).sum())
            assert ours[:count].tolist() == list(theirs)
            assert ours_scores[:count].tolist() == pytest.approx(list(theirs.values()), abs=TOLERANCE)
        assert float(beams.loss_bound[row]) == pytest.approx(bound, abs=TOLERANCE)


def expected(
    trie: ItemTrie, scored: set[int], log_probs: list[float], allowed: list[bool], num_beams: int, epsilon: float
) -> tuple[dict[int, float], dict[int, float], float]:
    """Prefixes, complete semantic IDs (node → score, best first) and the bound after one target call."""

    def children(node: int) -> list[int]:
        first = int(trie.first_child[node])
        return [child for child in range(first, first + int(trie.num_children[node])) if allowed[child]]

    def is_leaf(node: int) -> bool:
        return int(trie.num_children[node]) == 0

    def num_sids(node: int) -> int:
        return 1 if is_leaf(node) else sum(map(num_sids, children(node)))

    def best(scores: dict[int, float]) -> dict[int, float]:
        return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:num_beams])

    prefixes, leaves, bound = {0: 0.0}, dict[int, float](), -inf
    while prefixes and prefixes.keys() <= scored:
        candidates = {child: score + log_probs[child] for node, score in prefixes.items() for child in children(node)}
        leaves = best(leaves | {node: score for node, score in best(candidates).items() if is_leaf(node)})
        inner = {node: score for node, score in candidates.items() if not is_leaf(node)}
        beams, remaining = best(inner), best({node: score for node, score in inner.items() if node in scored})
        dropped = [score for node, score in beams.items() if node not in scored]
        needed = min(num_beams, len(leaves) + sum(map(num_sids, beams)))
        light = sum(map(exp, dropped)) <= epsilon * sum(map(exp, beams.values()))
        if dropped and light and len(leaves) + sum(map(num_sids, remaining)) >= needed:
            beams, bound = remaining, max(bound, *dropped)
        prefixes = beams
    return prefixes, leaves, bound


def test_a_vanishing_share_is_no_reason_to_drop_without_epsilon() -> None:
    trie = ItemTrie(torch.tensor([[3, 5], [4, 5], [4, 6]]))
    log_probs = torch.tensor([[0.0, -2000.0, 0.0, -1.0, -1.0, -1.0]])
    known = table(trie, [[0, 2]], log_probs, torch.ones_like(log_probs, dtype=torch.bool))
    assert advance(known, 2, 0).nodes.tolist() == [[2, 1]]
    assert advance(known, 2, 1e-9).leaves.tolist() == [[4, 5]]


def test_identifiers_that_end_early_count_among_those_that_remain() -> None:
    trie = ItemTrie(torch.tensor([[3, 5, -1], [3, 6, 7], [3, 6, 8], [4, 9, -1]]))
    log_probs = torch.tensor([[1, 0.9, 0.1, 0.5, 0.5, 1, 0.5, 0.5]]).log()
    known = table(trie, [[0, 1, 4]], log_probs, torch.ones_like(log_probs, dtype=torch.bool))
    assert advance(known, 3, 0.2).leaves.tolist() == [[3, 6, 7]]  # the three that begin with 3
    assert advance(known, 4, 0.2).nodes.tolist() == [[1, 2, 0, 0]]


def test_of_sampled_answers_none_is_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    trie = ItemTrie(random_sids(generator, 60, [4, 5, 5]))
    prompts, mask = random_prompts(generator, [9, 4], VOCAB_SIZE)
    decoder = SpeculativeDecoder(TARGET, trie, TrieDrafter(20), LosslessSampling())
    decoded = decoder(prompts, mask, 4)
    assert decoded.loss_bound.tolist() == [inf, inf]
    assert decoded.num_exact.tolist() == [0, 0]


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_an_epsilon_out_of_range_is_named(epsilon: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon is {epsilon}; expected 0 .as StrictTopK. to less than 1"):
        BoundedTopK(epsilon)
