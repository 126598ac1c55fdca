"""Both models' values at packed prefixes, against sums written anew in plain Python."""

import math

import pytest
import torch
from torch import Tensor

from atspeed.alignment import compare, pack
from atspeed.decoding import ROOT, ItemTrie, ScoredPrefixes

SIDS = torch.tensor([[1, 5, 7], [1, 5, 8], [1, 6, 7], [2, 5, 9], [2, 6, 7], [2, 6, 8], [3, 5, 7]])
TRIE = ItemTrie(SIDS)
ITEMS = torch.tensor([[0, 2, 3, 0], [6, 6, -1, -1]])  # the second request has fewer prefixes than the first
SHARES = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.5, 0.5, 0.0, 0.0]])


def scored(seed: int) -> tuple[ScoredPrefixes, Tensor]:
    """Values for the children of all prefixes, not normalised over them; and these values by node, ``[B, M]``."""
    prefixes = torch.tensor([node for node in range(TRIE.num_nodes) if TRIE.num_children[node]]).expand(2, -1)
    values = torch.randn(2, TRIE.num_nodes - 1, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    table = ScoredPrefixes.from_child_log_probs(TRIE, prefixes, torch.ones_like(prefixes, dtype=torch.bool), values)
    return table, values  # breadth-first: the children of all prefixes are the nodes 1, 2, 3 …


def expected_log_probs(values: Tensor, row: int, node: int) -> list[float]:
    first, count = int(TRIE.first_child[node]), int(TRIE.num_children[node])
    children = values[row, first - 1 : first - 1 + count].tolist()
    total = math.log(sum(math.exp(value) for value in children))
    return [value - total for value in children]


def expected_score(values: Tensor, row: int, node: int) -> float:
    if node == ROOT:
        return 0.0
    parent = int(TRIE.parent[node])
    siblings = expected_log_probs(values, row, parent)
    return expected_score(values, row, parent) + siblings[node - int(TRIE.first_child[parent])]


def test_every_prefix_has_both_models_normalised_log_probabilities_and_summed_scores() -> None:
    leaves = torch.where(ITEMS >= 0, TRIE.leaves(ITEMS.clamp(min=0)), ROOT)
    levels = pack(TRIE, leaves, SHARES)
    (draft, draft_values), (target, target_values) = scored(0), scored(1)
    compared = list(compare(draft, target, levels))
    assert [(prefixes.level, prefixes.num_levels) for prefixes in compared] == [(0, 3), (1, 3), (2, 3)]
    for prefixes, level in zip(compared, levels, strict=True):
        assert prefixes.shares is level.shares
        for row, nodes in enumerate(level.nodes.tolist()):
            for column, node in enumerate(nodes):
                for values, log_probs, scores in (
                    (draft_values, prefixes.draft_log_probs, prefixes.draft_scores),
                    (target_values, prefixes.target_log_probs, prefixes.target_scores),
                ):
                    assert scores[row, column].item() == pytest.approx(expected_score(values, row, node), abs=1e-5)
                    found = [value for value in log_probs[row, column].tolist() if value > -math.inf]
                    assert found == pytest.approx(expected_log_probs(values, row, node), abs=1e-5)
    assert (compared[2].shares == 0).any(), "there is padding"
    assert (compared[2].draft_log_probs == -torch.inf).any(), "there are missing children"


def test_the_gradient_of_a_score_reaches_every_code_of_its_prefix() -> None:
    levels = pack(TRIE, TRIE.leaves(torch.tensor([[0], [5]])), torch.ones(2, 1))
    (draft, values), (target, _) = scored(0), scored(1)
    *_, last = compare(draft, target, levels)
    last.draft_scores.sum().backward()
    assert values.grad is not None
    for row, item in enumerate((0, 5)):
        second, first = TRIE.path(TRIE.leaves(torch.tensor(item))).tolist()[1:]
        assert values.grad[row, first - 1] > 0
        assert values.grad[row, second - 1] > 0
    assert values.grad.isfinite().all()
