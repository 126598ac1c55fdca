"""What speculation is said to have done, against counting round by round."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.decoding import Decoded, ItemTrie, ModelDrafter, NoDrafter, SpeculativeDecoder, TrieDrafter
from atspeed.metrics import AnswerOverlap, Speculation, answer_overlap
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 40
TRIE = ItemTrie(random_sids(torch.Generator().manual_seed(0), 300, [6, 8, 8, 8]))
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [9, 4, 6, 5, 8, 7], VOCAB_SIZE)
TARGET, OTHER = tiny_model("llama", VOCAB_SIZE), tiny_model("llama", VOCAB_SIZE, seed=1)


def values_of(*batches: Decoded) -> dict[str, float]:
    metric = Speculation(TRIE.num_levels)
    for decoded in batches:
        metric.update(decoded.target_calls, decoded.draft_calls, decoded.accepted, decoded.drafted)
    return {name: float(value) for name, value in metric.compute().items()}


def test_levels_are_counted_as_the_target_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An independent count: a drafted level is accepted if the target scored its beams before it was asked for them."""
    num_beams, decoder = 4, SpeculativeDecoder(TARGET, TRIE, ModelDrafter(6, 2), draft=OTHER)
    batch = decoder(PROMPTS, MASK, num_beams)
    accepted, drafted, calls = [0] * 3, [0] * 3, 0
    plain = SpeculativeDecoder(TARGET, TRIE, NoDrafter())
    for row in range(len(PROMPTS)):  # each alone, by plain beam search of both models from the target's beams
        prompt = PROMPTS[row : row + 1], MASK[row : row + 1]
        beams = beams_by_depth(plain, *prompt, num_beams)
        depth, scored = 0, {0}
        while depth < TRIE.num_levels:
            calls += 1
            proposed = draft_levels(*prompt, beams[depth], width=6, gamma=min(2, TRIE.num_levels - 1 - depth))
            scored |= {*beams[depth], *(node for level in proposed for node in level)}
            start, depth = depth, depth + 1
            while depth < TRIE.num_levels and set(beams[depth]) <= scored:
                accepted[depth - 1] += 1
                depth += 1
            for level in range(start, max(start + len(proposed), depth - 1)):
                drafted[level] += 1
    values = values_of(batch)
    assert values["target_calls"] == pytest.approx(calls / len(PROMPTS))
    assert values["accepted_levels"] == pytest.approx(sum(accepted) / calls)
    assert values["acceptance_rate"] == pytest.approx(sum(accepted) / sum(drafted))
    assert 0 < sum(accepted) < sum(drafted), "the case must accept some and reject some"
    for level in range(3):
        assert values[f"acceptance_rate_level_{level}"] == pytest.approx(accepted[level] / drafted[level])


def log_probs(model: torch.nn.Module, prompt: torch.Tensor, mask: torch.Tensor, node: int) -> torch.Tensor:
    codes = TRIE.token[TRIE.path(torch.tensor(node)).flip(-1)]
    tokens = torch.cat([prompt[0][mask[0]], codes[codes > 0]])
    return model(tokens[None]).logits[0, -1].log_softmax(-1)


@torch.no_grad()
def best_children(
    model: torch.nn.Module, prompt: torch.Tensor, mask: torch.Tensor, scores: dict[int, float], width: int
) -> dict[int, float]:
    following = {}
    for node, score in scores.items():
        row = log_probs(model, prompt, mask, node)
        first, count = int(TRIE.first_child[node]), int(TRIE.num_children[node])
        following |= {child: score + float(row[TRIE.token[child]]) for child in range(first, first + count)}
    return dict(sorted(following.items(), key=lambda pair: -pair[1])[:width])


def beams_by_depth(
    plain: SpeculativeDecoder, prompt: torch.Tensor, mask: torch.Tensor, num_beams: int
) -> list[dict[int, float]]:
    beams = [{0: 0.0}]
    for _ in range(TRIE.num_levels):
        beams.append(best_children(TARGET, prompt, mask, beams[-1], num_beams))
    assert set(beams[-1]) == set(plain(prompt, mask, num_beams).leaves[0].tolist())
    return beams


def draft_levels(
    prompt: torch.Tensor, mask: torch.Tensor, beams: dict[int, float], width: int, gamma: int
) -> list[dict[int, float]]:
    levels, nodes = [], beams
    for _ in range(gamma):
        nodes = best_children(OTHER, prompt, mask, nodes, width)
        levels.append(nodes)
    return levels


def test_batches_add_up_and_plain_search_drafts_nothing() -> None:
    trie_drafter = SpeculativeDecoder(TARGET, TRIE, TrieDrafter(50))
    whole, parts = trie_drafter(PROMPTS, MASK, 5), [trie_drafter(PROMPTS[i::2], MASK[i::2], 5) for i in range(2)]
    together, one = values_of(*parts), values_of(whole)
    assert together == pytest.approx(one, nan_ok=True)
    plain = values_of(SpeculativeDecoder(TARGET, TRIE, NoDrafter())(PROMPTS, MASK, 5))
    assert plain["target_calls"] == 4
    assert plain["accepted_levels"] == plain["draft_calls"] == 0
    assert math.isnan(plain["acceptance_rate"])
    assert math.isnan(plain["acceptance_rate_level_0"])


leaves = st.lists(st.integers(1, 9), unique=True, max_size=4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(leaves, leaves), min_size=1, max_size=4))
def test_overlap_equals_brute_force(cases: list[tuple[list[int], list[int]]]) -> None:
    ours, exact = (torch.tensor([row + [0] * (4 - len(row)) for row in rows]) for rows in zip(*cases, strict=True))
    expected = [len(set(a) & set(b)) / len(b) if b else 1.0 for a, b in cases]
    assert answer_overlap(ours, exact).tolist() == pytest.approx(expected)
    metric = AnswerOverlap()
    metric.update(ours, exact)
    assert float(metric.compute()) == pytest.approx(sum(expected) / len(expected))
