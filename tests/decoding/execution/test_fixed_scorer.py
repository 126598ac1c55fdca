"""What is looked up in columns is what is searched in a growing table."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from atspeed.decoding import ItemTrie, PrefixScorer
from atspeed.decoding.execution.fixed_scorer import FixedScorer
from atspeed.decoding.execution.fixed_trie import FixedTrie
from tests.decoding.test_equality import thorough
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

MODEL = tiny_model("llama", 12)


@settings(thorough, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    num_items=st.integers(2, 40),
    share=st.floats(0.3, 1.0),
    num_scored=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    exchanged=st.booleans(),
)
def test_any_nodes_in_any_order(
    seed: int, num_items: int, share: float, num_scored: list[int], exchanged: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    trie = ItemTrie(random_sids(generator, num_items, [4, 3, 5]))
    fixed = FixedTrie(trie, room=0.0)
    if exchanged:  # by a smaller one
        fixed = FixedTrie(ItemTrie(random_sids(generator, 200, [4, 3, 5])), room=0.5)
        assert fixed.has_room_for(trie)
        fixed.load(trie)
    prompts, mask = random_prompts(generator, [7, 3], 12)
    allowed = trie.node_mask(torch.rand(2, num_items, generator=generator) < share)
    grown = PrefixScorer(MODEL, trie, prompts, mask, allowed=allowed)
    cache = DynamicCache()
    columns = FixedScorer(MODEL, fixed[0], prompts, mask, "vocabulary", fixed.in_room(allowed), cache)
    everything = torch.arange(trie.num_nodes).expand(2, -1)
    for count in num_scored:  # orphans, leaves, repetitions and what is not allowed among them
        nodes = torch.randint(trie.num_nodes, (2, count), generator=generator)
        grown.score(nodes)
        columns.score(nodes)
        assert columns.is_scored(everything).equal(grown.is_scored(everything))
        assert columns.calls.equal(grown.calls)
        torch.testing.assert_close(columns.log_probs(everything), grown.log_probs(everything), atol=1e-5, rtol=0)
        children, log_probs = grown.children(everything)
        ours, our_log_probs = (part[..., : children.shape[2]] for part in columns.children(everything))
        assert ours.equal(children)
        torch.testing.assert_close(our_log_probs, log_probs, atol=1e-5, rtol=0)
    most = torch.tensor([3, 50])
    for nodes in everything[:, 1:].split(1, dim=1):
        assert columns.count_leaves(nodes, allowed.gather(1, nodes), most).equal(
            grown.count_leaves(nodes, allowed.gather(1, nodes), most)
        )


def test_requests_are_not_dropped() -> None:
    trie = FixedTrie(ItemTrie(random_sids(torch.Generator().manual_seed(0), 9, [4, 3])), room=0.0)
    prompts, mask = random_prompts(torch.Generator().manual_seed(0), [5], 12)
    allowed = torch.ones(1, trie.num_nodes, dtype=torch.bool)
    scorer = FixedScorer(MODEL, trie[0], prompts, mask, "vocabulary", allowed, DynamicCache())
    with pytest.raises(NotImplementedError, match="keeps all requests"):
        scorer.keep(torch.tensor([0]))
