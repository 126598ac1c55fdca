import torch

from atspeed.catalog import ItemCatalog
from atspeed.decoding import Decoded, ItemFilter, ItemTrie
from atspeed.recommender import Answer, Recommendation, answers, unseen_items

CATALOG = ItemCatalog({"soap": ["<a_0>", "<b_1>"], "comb": ["<a_2>", "<b_1>"], "sponge": ["<a_0>", "<b_1>"]})
TRIE = ItemTrie(CATALOG.codes)
SOAPS, COMB = TRIE.leaves(torch.tensor([0, 1])).tolist()


def decoded(leaves: list[list[int]], scores: list[list[float]]) -> Decoded:
    counts = torch.zeros(len(leaves), 1, dtype=torch.long)
    calls = torch.arange(1, len(leaves) + 1)
    leaf, score = torch.tensor(leaves), torch.tensor(scores)
    return Decoded(leaf, score, calls, calls + 4, counts + 1, counts + 2, loss_bound=calls.float())


def test_answers_name_all_items_of_a_semantic_id_and_skip_padding() -> None:
    found = answers(decoded([[COMB, SOAPS], [SOAPS, 0]], [[-0.5, -1.0], [-0.25, -torch.inf]]), TRIE, CATALOG)
    soaps = ["soap", "sponge"], ["<a_0>", "<b_1>"]
    assert found == [
        Answer(
            [Recommendation(["comb"], ["<a_2>", "<b_1>"], -0.5), Recommendation(*soaps, -1.0)], 1, 5, accepted_levels=1
        ),
        Answer([Recommendation(*soaps, -0.25)], 2, 6, accepted_levels=1),
    ]


def test_a_filter_leaves_out_items_of_a_shared_semantic_id() -> None:
    batch = decoded([[SOAPS], [SOAPS], [0]], [[-1.0], [-1.0], [-torch.inf]])
    found = answers(batch, TRIE, CATALOG, unseen_items([[2], [1], [0, 1, 2]], 3))
    assert [[recommendation.items for recommendation in answer.recommended] for answer in found] == [
        [["soap"]],
        [["soap", "sponge"]],
        [],
    ]
    shared = answers(
        decoded([[SOAPS], [SOAPS]], [[-1.0]] * 2), TRIE, CATALOG, ItemFilter(torch.tensor([False, True, True]))
    )
    assert [answer.recommended[0].items for answer in shared] == [["sponge"]] * 2
