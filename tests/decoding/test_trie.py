import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.decoding import END, ROOT, ItemTrie


def prefixes_of(sids: list[list[int]]) -> list[tuple[int, ...]]:
    """All prefixes, breadth-first, in the order of their codes: node numbers by definition."""
    found = {tuple(codes[:depth]) for codes in sids for depth in range(len(codes) + 1)}
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


semantic_ids = st.integers(1, 5).flatmap(
    lambda levels: st.lists(st.lists(st.integers(3, 8), min_size=levels, max_size=levels), min_size=1, max_size=40)
)


@settings(deadline=None)
@given(semantic_ids)
def test_arrays_describe_the_prefix_tree(sids: list[list[int]]) -> None:
    trie = ItemTrie(torch.tensor(sids))
    prefixes = prefixes_of(sids)
    node = {prefix: number for number, prefix in enumerate(prefixes)}
    assert trie.num_nodes == len(prefixes)
    for prefix, number in node.items():
        children = [child for other, child in node.items() if other[:-1] == prefix and len(other) == len(prefix) + 1]
        assert (
            list(range(int(trie.first_child[number]), int(trie.first_child[number] + trie.num_children[number])))
            == children
        )
        if prefix:
            assert int(trie.token[number]) == prefix[-1]
            assert int(trie.parent[number]) == node[prefix[:-1]]
    every = torch.arange(trie.num_nodes)
    assert trie.depth(every).tolist() == [len(prefix) for prefix in prefixes]
    leaves = trie.leaves(torch.arange(len(sids)))
    assert [prefixes[leaf] for leaf in leaves.tolist()] == [tuple(codes) for codes in sids]
    items = trie.concatenated_items(torch.arange(trie.depth_start[-2], trie.num_nodes)[None], limit=1000)[0].tolist()
    assert sorted(items) == list(range(len(sids)))


TRIE = ItemTrie(torch.tensor([[3, 5], [3, 6], [4, 5], [3, 6]]))


def test_children_follow_their_parents_and_are_cut() -> None:
    nodes, valid = torch.tensor([[2, 1], [1, ROOT]]), torch.tensor([[True, True], [True, False]])
    children = TRIE.children(nodes, valid)
    assert children.values.tolist() == [[5, 3, 4], [3, 4, ROOT]]
    assert children.mask.tolist() == [[True] * 3, [True, True, False]]
    assert (children.source * children.mask).tolist() == [[0, 1, 1], [0, 0, 0]]
    assert TRIE.children(nodes, valid, limit=2).values.tolist() == [[5, 3], [3, 4]]


def test_colliding_items_stand_side_by_side() -> None:
    assert TRIE.concatenated_items(torch.tensor([[5, 4, 3], [3, ROOT, ROOT]]), limit=3).tolist() == [
        [2, 1, 3],
        [0, -1, -1],
    ]


def test_items_that_are_not_wanted_are_left_out() -> None:
    wanted = torch.tensor([[True, False, False, True], [True, True, True, True]])
    leaves = torch.tensor([[5, 4, 3], [3, ROOT, ROOT]])
    assert TRIE.concatenated_items(leaves, 3, wanted).tolist() == [[3, 0], [0, -1]]
    assert TRIE.concatenated_items(leaves, 1, wanted).tolist() == [[3], [0]]


def test_path_goes_up_to_the_root() -> None:
    assert TRIE.path(torch.tensor([4, 1, ROOT])).tolist() == [[4, 1], [1, ROOT], [ROOT, ROOT]]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(4, 7), min_size=1, max_size=4), min_size=1, max_size=30))
def test_identifiers_of_different_lengths(titles: list[list[int]]) -> None:
    sids = torch.full((len(titles), 5), END)
    for item, title in enumerate(titles):
        sids[item, : len(title) + 1] = torch.tensor([*title, 3])
    trie = ItemTrie(sids)
    leaves = trie.leaves(torch.arange(len(titles)))
    assert trie.tokens(leaves).equal(sids)
    every = torch.arange(trie.num_nodes)
    assert every[trie.is_leaf(every)].tolist() == leaves.unique().tolist()
    assert trie.num_leaves == len(leaves.unique())
    assert trie.has_one_length == (len({len(title) for title in titles}) == 1 and sids[0, -1] != END)
    for node in range(trie.num_nodes):
        prefix = trie.tokens(torch.tensor(node))
        prefix = prefix[prefix != END]
        below = (sids[:, : len(prefix)] == prefix).all(1).nonzero()[:, 0].tolist()
        span = slice(int(trie.first_item[node]), int(trie.first_item[node] + trie.num_items[node]))
        assert sorted(trie.items[span].tolist()) == below
        inner = {
            tuple(codes[:size])
            for codes in sids[below].tolist()
            for size in range(len(prefix), 5)
            if codes[size] != END
        }
        assert int(trie.subtree_size[node]) == len(inner)


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        ([[4, 5], [4, END]], r"the semantic ID \[4\] is the beginning of another one: end each with an end token"),
        ([[4, 5], [END, END]], "the semantic ID of item 1 is empty"),
        ([[4, 5, 6], [4, END, 6]], "the semantic ID of item 1 continues after -1, which ends it"),
    ],
)
def test_identifiers_that_cannot_be_told_apart_are_refused(sids: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemTrie(torch.tensor(sids))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,)])
def test_empty_sids_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="semantic IDs have the shape"):
        ItemTrie(torch.zeros(shape, dtype=torch.long))
