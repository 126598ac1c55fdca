"""A request may be restricted to some items, and the catalog may change."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.benchmark import HFGenerate
from atspeed.decoding import (
    ROOT,
    HybridDrafter,
    ItemFilter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    PrefixScorer,
    RelaxedSampling,
    SamplingVerifier,
    SpeculativeDecoder,
    TrieDrafter,
)
from tests.decoding.tiny import END_TOKEN, random_prompts, random_sids, random_titles, tiny_model

VOCAB_SIZE = 12
GENERATOR = torch.Generator().manual_seed(0)
SIDS = random_sids(GENERATOR, 80, [5, 4, 6])
TRIE = ItemTrie(SIDS)
PROMPTS, MASK = random_prompts(GENERATOR, [7, 3, 5], VOCAB_SIZE)
TARGET, DRAFT = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, seed=1)
DRAFTERS = [NoDrafter(), TrieDrafter(), TrieDrafter(6), HybridDrafter(12), ModelDrafter(4, 2)]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 5))
def test_a_node_is_allowed_if_an_item_below_is(seed: int, num_items: int, longest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sids = random_titles(generator, num_items, longest, 8)
    trie = ItemTrie(sids)
    wanted = torch.rand(2, num_items, generator=generator) < 0.3
    nodes = trie.node_mask(wanted)
    for row in range(2):
        expected = {ROOT} if wanted[row].any() else set()
        for leaf in trie.leaves(wanted[row].nonzero()[:, 0]).tolist():
            expected |= set(trie.path(torch.tensor(leaf)).tolist())
        assert set(nodes[row].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda drafter: type(drafter).__name__)
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_filter_answers_as_generate_does_on_the_remaining_items(drafter: object, share: float) -> None:
    wanted = torch.rand(3, len(SIDS), generator=torch.Generator().manual_seed(1)) < share
    decoder = SpeculativeDecoder(TARGET, TRIE, drafter, draft=DRAFT)  # type: ignore[arg-type]
    decoded = decoder(PROMPTS, MASK, 6, ItemFilter(wanted))
    for row, length in enumerate([7, 3, 5]):
        prompt = PROMPTS[row : row + 1, -length:]
        left = SIDS[wanted[row]]
        codes, scores = HFGenerate(TARGET, left)(prompt, torch.ones_like(prompt, dtype=torch.bool), 6)
        count = min(6, len(left.unique(dim=0)))
        assert TRIE.tokens(decoded.leaves[row, :count]).equal(codes[0, :count])
        torch.testing.assert_close(decoded.scores[row, :count], scores[0, :count], atol=1e-4, rtol=0)
        assert decoded.scores[row, count:].eq(-torch.inf).all()
        assert decoded.leaves[row, count:].eq(ROOT).all()


@torch.no_grad()
def test_no_forward_pass_is_spent_on_what_is_not_allowed() -> None:
    allowed = TRIE.node_mask(torch.arange(len(SIDS)) < 5).expand(3, -1)
    scorer = PrefixScorer(TARGET, TRIE, PROMPTS, MASK, allowed=allowed)
    scorer.score(torch.arange(1, TRIE.depth_start[3]).expand(3, -1))
    inner = [node for node in allowed[0].nonzero()[:, 0].tolist() if not TRIE.is_leaf(torch.tensor(node))]
    assert [sorted(row) for row in scorer.nodes.tolist()] == [inner] * 3


def test_identifiers_of_different_lengths_are_filtered_too() -> None:
    sids = random_titles(torch.Generator().manual_seed(2), 40, 4, VOCAB_SIZE)
    wanted = torch.rand(len(sids), generator=torch.Generator().manual_seed(3)) < 0.4
    decoder = SpeculativeDecoder(TARGET, ItemTrie(sids), TrieDrafter())
    decoded = decoder(PROMPTS, MASK, 5, ItemFilter(wanted))
    codes, scores = HFGenerate(TARGET, sids[wanted], end_token=END_TOKEN)(PROMPTS, MASK, 5)
    assert decoder.trie.tokens(decoded.leaves)[..., : codes.shape[2]].equal(codes)
    torch.testing.assert_close(decoded.scores, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("verifier", [None, LosslessSampling(), RelaxedSampling()])
@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda drafter: type(drafter).__name__)
def test_nothing_allowed_gives_an_empty_answer_beside_others(
    drafter: object, verifier: SamplingVerifier | None
) -> None:
    wanted = torch.zeros(3, len(SIDS), dtype=torch.bool)
    wanted[1, :9] = True
    decoder = SpeculativeDecoder(TARGET, TRIE, drafter, verifier, DRAFT)  # type: ignore[arg-type]
    decoded = decoder(PROMPTS, MASK, 4, ItemFilter(wanted))
    for row in (0, 2):
        assert decoded.leaves[row].eq(ROOT).all()
        assert decoded.scores[row].eq(-torch.inf).all()
        assert TRIE.concatenated_items(decoded.leaves[row : row + 1], 4).numel() == 0
    assert set(decoded.leaves[1].tolist()) <= set(TRIE.leaves(torch.arange(9)).tolist())
    assert len(set(decoded.leaves[1].tolist())) == 4


def test_allowed_normalisation_is_over_what_the_filter_leaves() -> None:
    wanted = torch.zeros(len(SIDS), dtype=torch.bool)
    wanted[::7] = True
    arguments = {"drafter": TrieDrafter(), "normalize": "allowed"}
    filtered = SpeculativeDecoder(TARGET, TRIE, **arguments)(PROMPTS, MASK, 8, ItemFilter(wanted))  # type: ignore[arg-type]
    smaller = ItemTrie(SIDS[wanted])
    expected = SpeculativeDecoder(TARGET, smaller, **arguments)(PROMPTS, MASK, 8)  # type: ignore[arg-type]
    assert TRIE.tokens(filtered.leaves).equal(smaller.tokens(expected.leaves))
    torch.testing.assert_close(filtered.scores, expected.scores, atol=1e-5, rtol=0)


def test_a_filter_is_turned_into_nodes_once_for_a_catalog() -> None:
    item_filter = ItemFilter(torch.ones(len(SIDS), dtype=torch.bool))
    nodes = item_filter.node_mask(TRIE, 2)
    assert nodes.shape == (2, TRIE.num_nodes)
    assert item_filter.node_mask(TRIE, 5).data_ptr() == nodes.data_ptr()
    assert item_filter.node_mask(ItemTrie(SIDS), 2).data_ptr() != nodes.data_ptr()


def test_filters_that_do_not_fit_are_named() -> None:
    with pytest.raises(TypeError, match=r"an item mask is torch.int64; expected torch.bool"):
        ItemFilter(torch.ones(80, dtype=torch.long))
    decoder = SpeculativeDecoder(TARGET, TRIE, NoDrafter())
    for shape in ((79,), (2, 80)):
        with pytest.raises(ValueError, match=r"an item mask has the shape .*; expected \[80\] items, or \[3, 80\]"):
            decoder(PROMPTS, MASK, 4, ItemFilter(torch.ones(shape, dtype=torch.bool)))


def test_another_catalog_takes_over_without_new_models() -> None:
    decoder = SpeculativeDecoder(TARGET, TRIE, ModelDrafter(6, 2), draft=DRAFT)
    before = decoder(PROMPTS, MASK, 5)
    fewer = ItemTrie(SIDS[20:])
    decoder.use_catalog(fewer)
    expected = SpeculativeDecoder(TARGET, fewer, NoDrafter())(PROMPTS, MASK, 5)
    assert decoder(PROMPTS, MASK, 5).leaves.equal(expected.leaves)
    decoder.use_catalog(ItemTrie(SIDS))
    assert decoder(PROMPTS, MASK, 5).leaves.equal(before.leaves)
    with pytest.raises(ValueError, match="have token ids from 0 to 99; the target knows tokens from 0 to 11"):
        decoder.use_catalog(ItemTrie(torch.tensor([[5, 99]])))
