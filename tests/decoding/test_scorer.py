from itertools import product

import pytest
import torch

from atspeed.decoding import ROOT, ItemTrie, PrefixScorer, SpeculativeDecoder, TrieDrafter
from atspeed.decoding.forward import _logsumexp_by
from tests.decoding.tiny import FAMILIES, WINDOWED, random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
SIDS = random_sids(torch.Generator().manual_seed(0), 40, [5, 4, 6])
TRIE = ItemTrie(SIDS)
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [7, 3], VOCAB_SIZE)
LEAVES = TRIE.leaves(torch.tensor([0, 11]))


def scorer(family: str = "llama", normalize: str = "vocabulary", window: int | None = None) -> PrefixScorer:
    model = tiny_model(family, VOCAB_SIZE, window=window)
    return PrefixScorer(model, TRIE, PROMPTS, MASK, normalize)  # type: ignore[arg-type]


def code_log_probs(scored: PrefixScorer, leaves: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the codes of leaves ``[B]``, first to last."""
    return scored.log_probs(TRIE.path(leaves).flip(1))


@torch.no_grad()
def unpadded_log_probs(family: str, row: int, window: int | None) -> torch.Tensor:
    """Log-probabilities of the codes of ``LEAVES[row]`` by one plain forward pass without any padding or tree."""
    codes = TRIE.token[TRIE.path(LEAVES[row]).flip(-1)]
    prompt = PROMPTS[row][MASK[row]]
    logits = tiny_model(family, VOCAB_SIZE, window=window)(torch.cat([prompt, codes])[None]).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1).gather(1, codes[:, None])[:, 0]


@pytest.mark.parametrize(("family", "window"), [*product(FAMILIES, [None]), *product(WINDOWED, [1, 4])])
@torch.no_grad()
def test_log_probs_equal_a_plain_forward_pass_in_whatever_order_nodes_come(family: str, window: int | None) -> None:
    prefixes = TRIE.path(LEAVES)[:, 1:]  # depth 2, depth 1
    others = torch.arange(1, 9).expand(2, -1)
    expected = torch.stack([unpadded_log_probs(family, row, window) for row in range(2)])
    at_once, step_by_step, with_others = (scorer(family, window=window) for _ in range(3))
    at_once.score(prefixes)
    for nodes in (prefixes[:, :0], prefixes[:, 1:], prefixes[:, :1]):
        step_by_step.score(nodes)
    with_others.score(torch.cat([others, prefixes], 1))
    for scored, calls in ((at_once, 1), (step_by_step, 3), (with_others, 1)):
        torch.testing.assert_close(code_log_probs(scored, LEAVES), expected, atol=1e-5, rtol=1e-5)
        assert scored.calls.tolist() == [calls, calls]


@torch.no_grad()
def test_nothing_is_scored_twice() -> None:
    scored = scorer()
    nodes = torch.tensor([[1, 2, 1, ROOT], [3, 3, 3, 3]])
    scored.score(nodes)
    assert [sorted(row) for row in scored.nodes.tolist()] == [[ROOT, 1, 2], [-1, ROOT, 3]]
    scored.score(nodes)
    scored.score(TRIE.leaves(torch.tensor([[0], [1]])))  # leaves have no children to score
    assert scored.calls.tolist() == [1, 1]
    assert scored.nodes.shape == (2, 3)


@torch.no_grad()
def test_a_node_without_its_ancestors_is_not_scored() -> None:
    scored = scorer()
    deep = TRIE.path(LEAVES)[:, 1:2]
    scored.score(deep)
    assert not scored.is_scored(deep).any()
    assert (scored.children(deep)[1] == -torch.inf).all()


@torch.no_grad()
def test_allowed_normalisation_sums_to_one_over_the_children() -> None:
    scored = scorer(normalize="allowed")
    nodes = torch.tensor([[1, 2], [2, 3]])
    scored.score(nodes)
    for log_probs in (scored.children(nodes[:, :1] * ROOT)[1], scored.children(nodes)[1]):
        torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:-1]))


@pytest.mark.parametrize(("family", "window"), [("llama", None), ("mistral", 4), ("gemma2", 4)])
@torch.no_grad()
def test_requests_can_leave(family: str, window: int | None) -> None:
    scored, alone = (scorer(family, window=window) for _ in range(2))
    nodes = TRIE.path(LEAVES)[:, 1:]
    scored.score(nodes[:, 1:])
    scored.keep(torch.tensor([1]))
    scored.score(nodes[1:, :1])
    alone.score(nodes)
    torch.testing.assert_close(
        code_log_probs(scored, LEAVES[1:]), code_log_probs(alone, LEAVES)[1:], atol=1e-5, rtol=1e-5
    )


def test_gradients_flow_through_the_packed_tree() -> None:
    model = tiny_model("llama", VOCAB_SIZE, seed=5)
    scored = PrefixScorer(model, TRIE, PROMPTS, MASK)
    scored.score(TRIE.path(LEAVES)[:, 1:])
    packed = torch.autograd.grad(code_log_probs(scored, LEAVES).sum(), list(model.parameters()))
    total = torch.zeros(())
    for row in range(2):
        codes = TRIE.token[TRIE.path(LEAVES[row]).flip(-1)]
        prompt = PROMPTS[row][MASK[row]]
        logits = model(torch.cat([prompt, codes])[None]).logits[0, len(prompt) - 1 : -1]
        total = total + logits.log_softmax(-1).gather(1, codes[:, None]).sum()
    for ours, plain in zip(packed, torch.autograd.grad(total, list(model.parameters())), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-4)


def test_large_and_impossible_logits_are_normalised_by_group() -> None:
    values = torch.tensor([[1000.0, 999.0, -torch.inf, -2000.0]])
    sums = _logsumexp_by(torch.tensor([[0, 0, 1, 2]]), values, 4)
    assert sums[0, 0] == pytest.approx(float(values[0, :2].logsumexp(0)))
    assert sums[0, 2] == -2000
    assert (sums < 0)[0, [1, 3]].all(), "very unlikely, but no nan"


@pytest.mark.parametrize("family", FAMILIES)
def test_allowed_scores_are_those_of_an_enumeration(family: str) -> None:
    decoder = SpeculativeDecoder(tiny_model(family, VOCAB_SIZE), TRIE, TrieDrafter(), normalize="allowed")
    decoded = decoder(PROMPTS, MASK, TRIE.num_leaves)
    model = tiny_model(family, VOCAB_SIZE)
    sids = [tuple(codes) for codes in SIDS.unique(dim=0).tolist()]
    for row in range(2):
        prompt = PROMPTS[row][MASK[row]]
        expected = {}
        for codes in sids:
            with torch.no_grad():
                logits = model(torch.cat([prompt, torch.tensor(codes)])[None]).logits[0, len(prompt) - 1 :].double()
            expected[codes] = sum(
                float(logits[level][sorted({s[level] for s in sids if s[:level] == codes[:level]})].logsumexp(0))
                for level in range(3)
            )
            expected[codes] = sum(float(logits[level, code]) for level, code in enumerate(codes)) - expected[codes]
        ours = {
            tuple(c): s
            for c, s in zip(TRIE.tokens(decoded.leaves[row]).tolist(), decoded.scores[row].tolist(), strict=True)
        }
        assert ours == pytest.approx(expected, abs=1e-4)
        assert sum(torch.tensor(list(ours.values()), dtype=torch.float64).exp()) == pytest.approx(1, abs=1e-4)
