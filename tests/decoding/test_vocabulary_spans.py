import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed.decoding import ItemTrie
from atspeed.decoding.vocabulary_spans import LARGEST_GAP, num_tokens_in, split_spans, vocabulary_spans


@given(tokens=st.lists(st.integers(0, 10 * LARGEST_GAP), min_size=1, max_size=8), width=st.integers(1, 3000))
def test_spans_hold_all_tokens_and_no_long_gap(tokens: list[int], width: int) -> None:
    spans = vocabulary_spans(torch.tensor(tokens))
    held = {token for begin, end in spans for token in range(begin, end)}
    assert set(tokens) <= held
    assert num_tokens_in(spans) == len(held)
    for begin, end in spans:
        assert {begin, end - 1} <= set(tokens)
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert begin - end > LARGEST_GAP
    for begin, end in spans:
        inside = sorted({token for token in tokens if begin <= token < end})
        assert all(after - before <= LARGEST_GAP + 1 for before, after in itertools.pairwise(inside))
    parts = split_spans(spans, width)
    assert all(0 < end - begin <= width for begin, end in parts)
    assert [token for begin, end in parts for token in range(begin, end)] == sorted(held)


def test_a_trie_says_where_the_tokens_of_its_codes_lie() -> None:
    """What closes a semantic ID counts for the target, not for a draft, which has tokens of its own."""
    sids = torch.tensor([[0, 2, 4], [1, 3, 4]])  # codes 0 to 3, and what closes
    trie = ItemTrie(sids, torch.tensor([5000, 5001, 5002, 5003, 7]), num_closing=1)
    assert trie.token_spans == ((7, 8), (5000, 5004))
    assert trie.for_draft(torch.tensor([50, 51, 62, 63, 9000])).token_spans == ((50, 64),)
