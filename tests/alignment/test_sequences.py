from collections import Counter, defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.alignment.sequences import pack
from atspeed.decoding import ROOT, ItemTrie

CODES = st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=12, unique=True)


@settings(max_examples=150, deadline=None)
@given(sids=CODES, draw=st.data())
def test_packing_equals_counting_prefixes(sids: list[tuple[int, ...]], draw: st.DataObject) -> None:
    """Also where a leaf comes twice, where there is padding, and where requests have different numbers of prefixes."""
    trie = ItemTrie(torch.tensor(sids))
    chosen = draw.draw(
        st.lists(st.lists(st.integers(-1, len(sids) - 1), min_size=5, max_size=5), min_size=1, max_size=3)
    )
    weights = draw.draw(st.lists(st.floats(0.1, 1), min_size=5, max_size=5))
    items = torch.tensor(chosen)
    leaves = torch.where(items >= 0, trie.leaves(items.clamp(min=0)), ROOT)
    shares = torch.tensor(weights) * (leaves != ROOT)
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
    levels = pack(trie, leaves, shares)
    assert len(levels) == 3
    for row, picks in enumerate(chosen):
        for depth, level in enumerate(levels):
            expected: dict[tuple[int, ...], float] = Counter()
            following: dict[tuple[int, ...], dict[int, float]] = defaultdict(Counter)
            for item, share in zip(picks, shares[row].tolist(), strict=True):
                if item >= 0:
                    expected[sids[item][:depth]] += share
                    following[sids[item][:depth]][sids[item][depth]] += share
            prefixes = [tuple(c for c in codes if c >= 0) for codes in trie.tokens(level.nodes[row]).tolist()]
            found = {p: s for p, s in zip(prefixes, level.shares[row].tolist(), strict=True) if s > 0}
            assert found == pytest.approx(expected, abs=1e-6), "each prefix once, and padding counts nothing"
            assert len([p for p in prefixes if p]) == len({p for p in prefixes if p})

            count = trie.num_children[level.nodes]
            index = torch.arange(int(count.max()))
            exists = index < count[..., None]
            children = (trie.first_child[level.nodes][..., None] + index) * exists
            next_shares = level.next_shares(children)[row]
            for prefix, nodes, values in zip(prefixes, children[row], next_shares, strict=True):
                if prefix in found:
                    by_code = {
                        int(trie.token[node]): float(value)
                        for node, value in zip(nodes, values, strict=True)
                        if value > 0
                    }
                    total = sum(following[prefix].values())
                    assert by_code == pytest.approx({c: s / total for c, s in following[prefix].items()}, abs=1e-5)


def test_a_level_is_as_wide_as_the_request_with_the_most_prefixes() -> None:
    trie = ItemTrie(torch.tensor([[1, 5], [1, 6], [2, 5], [3, 5]]))
    leaves = trie.leaves(torch.tensor([[0, 1, 0], [0, 2, 3]]))
    levels = pack(trie, leaves, torch.full((2, 3), 1 / 3))
    assert [level.nodes.shape[1] for level in levels] == [1, 3]
    assert levels[1].nodes.tolist() == [[0, 0, 1], [1, 2, 3]]
    torch.testing.assert_close(levels[1].shares, torch.tensor([[0.0, 0, 1], [1 / 3] * 3]))


def test_ids_of_different_lengths_are_refused() -> None:
    trie = ItemTrie(torch.tensor([[1, -1], [2, 3]]))
    with pytest.raises(ValueError, match="the semantic IDs have different lengths"):
        pack(trie, trie.leaves(torch.tensor([[0, 1]])), torch.full((1, 2), 0.5))
