import copy
import math

import pytest
import torch

from atspeed.benchmark.agreement import SID, Answer, answers_of
from atspeed.benchmark.measurement import items_by_tokens
from atspeed.benchmark.near_ties import border_gaps, count_near_ties, is_near_tie, observed_noise, tie_tolerance
from atspeed.data import RequestBatch
from atspeed.decoding import ItemTrie, NoDrafter, PrefixScorer, SpeculativeDecoder
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE, WIDTH = 12, 3
SIDS = random_sids(torch.Generator().manual_seed(0), 60, [5, 5, 5]).unique(dim=0)
TRIE, MODEL = ItemTrie(SIDS), tiny_model("llama", VOCAB_SIZE)
PROMPTS, MASK = random_prompts(torch.Generator().manual_seed(1), [6, 4], VOCAB_SIZE)
BATCH = RequestBatch(torch.zeros(2), PROMPTS, MASK, PROMPTS, MASK, torch.zeros(2, 1), torch.zeros(2))


@torch.no_grad()
def scores_of_prefixes(row: int) -> dict[SID, float]:
    """The score of every prefix, each semantic ID scored by itself."""
    prompt = PROMPTS[row][MASK[row]]
    scores = {}
    for sid in SIDS:
        log_probs = MODEL(torch.cat([prompt, sid])[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        summed = log_probs.gather(1, sid[:, None])[:, 0].cumsum(0)
        scores.update({tuple(sid[: level + 1].tolist()): float(summed[level]) for level in range(3)})
    return scores


def expected_gaps(scores: dict[SID, float]) -> dict[SID, float]:
    """The gap of every semantic ID, by plain beam search over a dict."""
    gaps = {tuple(sid): math.inf for sid in SIDS.tolist()}
    beams: list[SID] = [()]
    for level in range(3):
        candidates = sorted(
            (prefix for prefix in scores if len(prefix) == level + 1 and prefix[:-1] in beams),
            key=lambda prefix: -scores[prefix],
        )
        kept, dropped = candidates[:WIDTH], candidates[WIDTH:]
        for sid in gaps:
            if (prefix := sid[: level + 1]) in kept and dropped:
                gaps[sid] = min(gaps[sid], scores[prefix] - scores[dropped[0]])
            elif prefix in dropped:
                gaps[sid] = min(gaps[sid], scores[kept[-1]] - scores[prefix])
        beams = kept
    return gaps


def test_gaps_are_those_of_plain_beam_search_over_a_dict() -> None:
    leaves = TRIE.leaves(torch.arange(len(SIDS))).expand(2, -1)
    padded = torch.cat([leaves, torch.zeros(2, 1, dtype=torch.long)], 1)
    gaps = border_gaps(PrefixScorer(MODEL, TRIE, PROMPTS, MASK), WIDTH, padded)
    for row in range(2):
        expected = expected_gaps(scores_of_prefixes(row))
        assert gaps[row, :-1].tolist() == pytest.approx([expected[tuple(sid)] for sid in SIDS.tolist()], abs=1e-4)
        assert len({round(gap, 3) for gap in expected.values()}) > 5


def test_only_what_scores_near_the_border_may_be_exchanged() -> None:
    decoded = SpeculativeDecoder(MODEL, TRIE, NoDrafter())(PROMPTS, MASK, WIDTH)
    reference = answers_of(TRIE.tokens(decoded.leaves), decoded.scores)
    gaps = [expected_gaps(scores_of_prefixes(row)) for row in range(2)]
    near, far, tolerance = [], [], 1e-3
    for answer, known in zip(reference, gaps, strict=True):
        *kept, last = answer.sids
        others = sorted((sid for sid in known if sid not in answer.sids), key=lambda sid: known[sid])
        near.append(Answer([*kept, others[0]], answer.scores))
        far.append(Answer([*kept, others[-1]], answer.scores))
        tolerance += max(known[last], known[others[0]])
    illegal = [Answer([*answer.sids[:-1], (99, 99, 99)], answer.scores) for answer in reference]
    answers_by = {"same": reference, "near": near, "far": far, "illegal": illegal}
    arguments = (reference, [BATCH], MODEL, TRIE, items_by_tokens(SIDS), WIDTH)
    counts = count_near_ties(answers_by, *arguments, tolerance)
    assert counts == {"same": 0, "near": 2, "far": 0, "illegal": 0}
    assert count_near_ties(answers_by, *arguments, 1e-9)["near"] == 0


def test_an_order_may_change_only_among_nearly_equal_scores() -> None:
    reference = Answer([(5,), (6,)], [-1.0, -1.1])
    assert is_near_tie(Answer([(6,), (5,)], [-1.02, -1.08]), reference, {}, 0.1)
    assert not is_near_tie(Answer([(6,), (5,)], [-0.5, -1.0]), reference, {}, 0.1)


def test_in_float32_on_a_cpu_there_is_no_tolerance() -> None:
    assert tie_tolerance(MODEL) is None


def test_in_other_dtypes_there_is_one() -> None:
    tolerances = {dtype: tie_tolerance(copy.deepcopy(MODEL).to(dtype)) for dtype in (torch.float64, torch.float16)}
    assert tolerances == {torch.float64: None, torch.float16: 0.02}
    assert tie_tolerance(copy.deepcopy(MODEL).to("meta", torch.float64)) == 1e-3


def test_noise_is_the_largest_change_of_a_score_and_not_what_one_answer_lacks() -> None:
    reference = [Answer([(5,), (6,)], [-1.0, -2.0]), Answer([(5,), (6,)], [-3.0, -4.0])]
    answers = [Answer([(6,), (8,)], [-1.75, -9.0]), Answer([(5,), (6,)], [-3.125, -4.0])]
    assert observed_noise(answers, reference) == 0.25
    assert observed_noise([Answer([(8,)], [-1.0])], reference[:1]) == 0
