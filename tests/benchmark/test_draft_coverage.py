import pytest
import torch

from atspeed.benchmark.draft_coverage import measure_coverage
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
TRIE = ItemTrie(random_sids(torch.Generator().manual_seed(0), 200, [5, 6, 7]))
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [7, 3, 5, 6, 4], VOCAB_SIZE)
TARGET = tiny_model("llama", VOCAB_SIZE)
BATCHES = [
    RequestBatch(
        torch.zeros(len(rows)), *2 * (PROMPTS[rows], MASK[rows]), torch.zeros(len(rows), 1), torch.zeros(len(rows))
    )
    for rows in (torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
]


@torch.no_grad()
def scores_of_all_nodes(seed: int, legal_only: bool) -> torch.Tensor:
    """Scores of the nodes of two levels, ``[5, nodes]``, each prefix scored by itself; over legal codes only or not."""
    scores = torch.zeros(len(PROMPTS), TRIE.depth_start[3])
    for row in range(len(PROMPTS)):
        for node in range(1, TRIE.depth_start[3]):
            codes = TRIE.tokens(torch.tensor(node))
            codes = codes[codes >= 0]
            prompt = PROMPTS[row][MASK[row]]
            logits = tiny_model("llama", VOCAB_SIZE, seed)(torch.cat([prompt, codes])[None]).logits[0]
            logits = logits[len(prompt) - 1 : -1]
            if legal_only:
                parents = TRIE.path(torch.tensor(node)).flip(-1)[-len(codes) - 1 : -1] if len(codes) > 1 else []
                for depth, parent in enumerate([0, *[int(p) for p in parents if p > 0]]):
                    legal = TRIE.token[torch.where(TRIE.parent[1:] == parent)[0] + 1]
                    outside = torch.ones(VOCAB_SIZE, dtype=torch.bool).index_fill(0, legal, False)
                    logits[depth, outside] = -torch.inf
            scores[row, node] = logits.log_softmax(-1).gather(1, codes[:, None]).sum()
    return scores


@pytest.mark.parametrize("seed", [0, 1], ids=["the target itself", "another draft"])
def test_coverage_counts_requests_whose_target_beams_lie_in_the_drafts_best(seed: int) -> None:
    rows = measure_coverage(TARGET, tiny_model("llama", VOCAB_SIZE, seed), TRIE, None, BATCHES, (1, 3), (2, 5, 8, 30))
    found = {(row.level, row.num_beams, row.draft_beams): row.coverage for row in rows}
    target, draft = scores_of_all_nodes(0, False), scores_of_all_nodes(seed, True)
    first, second, end = TRIE.depth_start[1:4]
    for width in (1, 3):
        for size in (2, 5, 8, 30):
            covered = {0: 0, 1: 0}
            for row in range(len(PROMPTS)):
                beams = [target[row, first:second].topk(width).indices + first]
                children = torch.cat([torch.where(TRIE.parent[:end] == beam)[0] for beam in beams[0]])
                beams.append(children[target[row, children].topk(width).indices])
                for level, (start, stop) in enumerate(((first, second), (second, end))):
                    best = (
                        draft[row, start:stop].topk(min(size, stop - start)).indices + start
                    )  # widest N: all first codes
                    covered[level] += set(beams[level].tolist()) <= set(best.tolist())
            for level in (0, 1):
                assert found[level, width, size] == pytest.approx(covered[level] / len(PROMPTS))
    assert any(0 < share < 1 for share in found.values()), "the case must be neither always nor never covered"
