"""Sampling verification against the exact law, enumerated independently of the engine on small tries.

The law: at each level the K prefixes are drawn without replacement from the softmax of score / temperature over the
children of the last level's K. A chi-square test compares how often each set of K semantic IDs comes up with its exact
probability. Seeds are fixed; for a random seed, a right verifier would fail one of these tests with a probability of
FALSE_ALARM each.
"""

import copy
import itertools
from collections import defaultdict

import pytest
import torch
from transformers import PreTrainedModel

from atspeed.decoding import (
    Drafter,
    HybridDrafter,
    ItemTrie,
    LosslessSampling,
    ModelDrafter,
    NoDrafter,
    RelaxedSampling,
    RequestNoise,
    SamplingVerifier,
    SpeculativeDecoder,
    TrieDrafter,
    request_seeds,
)
from atspeed.decoding.execution import Execution
from atspeed.decoding.request_noise import Use
from atspeed.decoding.verifiers.rejection import draw
from tests.decoding.priced import PRICED
from tests.decoding.tiny import random_prompts, random_titles, tiny_model

FALSE_ALARM = 1e-3
SAMPLES = 5000
VOCAB_SIZE = 12
SIDS = torch.tensor([[3, 5, 7], [3, 5, 8], [3, 6, 7], [4, 5, 9], [4, 6, 7], [4, 6, 8], [4, 7, 7], [8, 3, 3]])
PROMPT, MASK = random_prompts(torch.Generator().manual_seed(1), [6], VOCAB_SIZE)
TARGET = tiny_model("llama", VOCAB_SIZE)
Law = dict[frozenset[tuple[int, ...]], float]


def contrary(model: PreTrainedModel) -> PreTrainedModel:
    """A model that likes best what another likes least."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    return model


DRAFTS = {"perfect": TARGET, "poor": tiny_model("llama", VOCAB_SIZE, seed=1), "adversarial": contrary(TARGET)}


@torch.no_grad()
def scores_of_prefixes() -> dict[tuple[int, ...], float]:
    """The score of every prefix, by plain forward passes in float64."""
    model = copy.deepcopy(TARGET).double()
    scores: dict[tuple[int, ...], float] = {(): 0.0}
    for codes in SIDS.tolist():
        log_probs = model(torch.cat([PROMPT[0], torch.tensor(codes)])[None]).logits[0].log_softmax(-1)
        for level, code in enumerate(codes):
            before = scores[tuple(codes[:level])]
            scores[tuple(codes[: level + 1])] = before + float(log_probs[PROMPT.shape[1] - 1 + level, code])
    return scores


def exact_law(num_beams: int, temperature: float) -> Law:
    """The probability of every set of K semantic IDs, by enumeration of all ordered draws at each level."""
    scores = scores_of_prefixes()
    law: Law = {frozenset([()]): 1.0}
    for level in range(SIDS.shape[1]):
        following: dict[frozenset[tuple[int, ...]], float] = defaultdict(float)
        for prefixes, probability in law.items():
            candidates = [prefix for prefix in scores if len(prefix) == level + 1 and prefix[:-1] in prefixes]
            weight = {c: float(torch.tensor(scores[c] / temperature, dtype=torch.float64).exp()) for c in candidates}
            for order in itertools.permutations(candidates, min(num_beams, len(candidates))):
                left, chance = sum(weight.values()), probability
                for prefix in order:
                    chance *= weight[prefix] / left
                    left -= weight[prefix]
                following[frozenset(order)] += chance
        law = following
    assert sum(law.values()) == pytest.approx(1)
    return law


def sample(
    verifier: SamplingVerifier,
    drafter: Drafter,
    draft: PreTrainedModel,
    num_beams: int,
    seed: int = 0,
    execution: Execution | None = None,
) -> dict[frozenset[tuple[int, ...]], int]:
    trie = ItemTrie(SIDS)
    decoder = SpeculativeDecoder(TARGET, trie, drafter, verifier, draft, execution=execution)
    seeds = request_seeds(seed, torch.arange(SAMPLES))
    decoded = decoder(PROMPT.expand(SAMPLES, -1), MASK.expand(SAMPLES, -1), num_beams, seeds=seeds)
    counts: dict[frozenset[tuple[int, ...]], int] = defaultdict(int)
    for answer in trie.tokens(decoded.leaves).tolist():
        assert len({tuple(codes) for codes in answer}) == num_beams, "K distinct results"
        counts[frozenset(tuple(codes) for codes in answer)] += 1
    assert (decoded.scores.diff(dim=1) <= 0).all(), "best first"
    return counts


def chi_square_p_value(counts: dict[frozenset[tuple[int, ...]], int], law: Law) -> float:
    """How likely so large a deviation is under the law; the rarest are counted together, at least 5 expected."""
    assert counts.keys() <= law.keys()
    statistic, cases, count, expected = 0.0, 0, 0, 0.0
    for answer, probability in sorted(law.items(), key=lambda item: item[1]):
        count, expected = count + counts.get(answer, 0), expected + SAMPLES * probability
        if expected >= 5:
            statistic, cases, count, expected = statistic + (count - expected) ** 2 / expected, cases + 1, 0, 0.0
    half = torch.tensor([(cases - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def distance(counts: dict[frozenset[tuple[int, ...]], int], law: Law) -> float:
    """Total variation distance of the sampled frequencies from the law."""
    return 0.5 * sum(abs(counts.get(answer, 0) / SAMPLES - probability) for answer, probability in law.items())


DRAFTERS = {
    "plain": NoDrafter(),
    "trie": TrieDrafter(),
    "hybrid": HybridDrafter(6),
    "one draft beam": ModelDrafter(1, 2),
    "draft": ModelDrafter(3, 2),
    "wide draft": ModelDrafter(8, 2),
    **PRICED,
}


@pytest.mark.parametrize("quality", DRAFTS)
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize(("num_beams", "temperature"), [(1, 1.0), (2, 1.0), (3, 2.0)])
def test_lossless_sampling_follows_the_exact_law(
    quality: str, drafter: str, num_beams: int, temperature: float
) -> None:
    counts = sample(LosslessSampling(temperature), DRAFTERS[drafter], DRAFTS[quality], num_beams)
    assert chi_square_p_value(counts, exact_law(num_beams, temperature)) > FALSE_ALARM


@pytest.mark.parametrize("quality", DRAFTS)
@pytest.mark.parametrize("drafter", ["one draft beam", "draft", "wide draft"])
def test_relaxed_sampling_of_one_follows_the_exact_law(quality: str, drafter: str) -> None:
    counts = sample(RelaxedSampling(), DRAFTERS[drafter], DRAFTS[quality], 1)
    assert chi_square_p_value(counts, exact_law(1, 1.0)) > FALSE_ALARM


def test_relaxed_sampling_of_more_is_exact_for_a_perfect_draft_and_near_for_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    law = exact_law(2, 1.0)
    rows = []
    for quality, model in DRAFTS.items():
        for draft_beams in (2, 4, 8):
            drafter = ModelDrafter(draft_beams, 2)
            relaxed, lossless = (
                distance(sample(v, drafter, model, 2), law) for v in (RelaxedSampling(), LosslessSampling())
            )
            rows.append((quality, draft_beams, relaxed, lossless))
    with capsys.disabled():
        print("\n| draft | N | relaxed | lossless (sampling error) |\n| --- | --: | --: | --: |")
        for quality, draft_beams, relaxed, lossless in rows:
            print(f"| {quality} | {draft_beams} | {relaxed:.3f} | {lossless:.3f} |")
    assert all(lossless < 0.04 for *_, lossless in rows)
    assert all(relaxed < 0.04 for quality, _, relaxed, _ in rows if quality == "perfect")
    assert max(relaxed for *_, relaxed, _ in rows) > 0.1, "the relaxation is one"


def test_relaxed_sampling_is_the_papers_algorithm() -> None:
    """Each proposal is tested by itself, the first K accepted stay, the residual fills up: enumerated."""
    p, q, drawn, num_beams = [0.4, 0.35, 0.2, 0.05], [0.1, 0.2, 0.3, 0.4], [3, 2, 1], 2
    law: dict[frozenset[int], float] = defaultdict(float)
    for accepts in itertools.product([True, False], repeat=len(drawn)):
        chance = 1.0
        for place, accept in zip(drawn, accepts, strict=True):
            chance *= min(1, p[place] / q[place]) if accept else 1 - min(1, p[place] / q[place])
        accepted = [place for place, accept in zip(drawn, accepts, strict=True) if accept]
        residual = {c: p[c] - q[c] for c in range(4) if p[c] > q[c] and c not in accepted}
        missing = max(0, num_beams - len(accepted))
        orders = list(itertools.permutations(residual, min(missing, len(residual))))
        assert all(len(order) == missing for order in orders), "the residual suffices in this case"
        for order in orders:
            left, weight = sum(residual.values()), chance
            for place in order:
                weight *= residual[place] / left
                left -= residual[place]
            law[frozenset([*accepted, *order][:num_beams] if missing else accepted[:num_beams])] += weight
    assert sum(law.values()) == pytest.approx(1)
    target, draft = (torch.tensor(x, dtype=torch.float64).log().expand(SAMPLES, -1) for x in (p, q))
    places = torch.tensor(drawn).expand(SAMPLES, -1)
    noise = RequestNoise(torch.arange(SAMPLES), torch.arange(4).expand(SAMPLES, -1))
    chosen = RelaxedSampling().choose(target, draft, places, num_beams, noise)
    counts: dict[frozenset[int], int] = defaultdict(int)
    for row in chosen.tolist():
        counts[frozenset(row)] += 1
    assert chi_square_p_value(counts, law) > FALSE_ALARM  # type: ignore[arg-type]


def test_the_statistics_see_a_wrong_law() -> None:
    counts = sample(LosslessSampling(1.3), NoDrafter(), TARGET, 2)
    assert chi_square_p_value(counts, exact_law(2, 1.0)) < FALSE_ALARM


@pytest.mark.parametrize("verifier", [LosslessSampling(), RelaxedSampling()])
def test_a_perfect_draft_is_always_accepted(verifier: SamplingVerifier) -> None:
    # the draft scores over legal codes: a target that scores over all of them is another law, accepted nearly always
    decoder = SpeculativeDecoder(TARGET, ItemTrie(SIDS), ModelDrafter(3, 2), verifier, TARGET, normalize="allowed")
    decoded = decoder(PROMPT.expand(500, -1), MASK.expand(500, -1), 3)
    assert decoded.target_calls.eq(1).all()


@pytest.mark.parametrize("verifier", [LosslessSampling(1e-3), RelaxedSampling(1e-3), LosslessSampling(50.0)])
@pytest.mark.parametrize("quality", DRAFTS)
def test_there_are_k_distinct_results_at_any_temperature(verifier: SamplingVerifier, quality: str) -> None:
    for num_beams in (2, 5, len(SIDS)):
        decoder = SpeculativeDecoder(TARGET, ItemTrie(SIDS), ModelDrafter(4, 2), verifier, DRAFTS[quality])
        decoded = decoder(PROMPT.expand(50, -1), MASK.expand(50, -1), num_beams)
        assert decoded.scores.isfinite().all()
        assert all(len(set(row)) == num_beams for row in decoded.leaves.tolist())


def test_a_low_temperature_gives_the_best() -> None:
    arguments = TARGET, ItemTrie(SIDS), ModelDrafter(4, 2)
    strict = SpeculativeDecoder(*arguments, draft=TARGET)(PROMPT, MASK, 3)
    cold = SpeculativeDecoder(*arguments, LosslessSampling(1e-3), TARGET)(PROMPT, MASK, 3)
    assert cold.leaves.equal(strict.leaves)


def test_a_seed_gives_the_same_answer() -> None:
    first, again, other = (sample(RelaxedSampling(), ModelDrafter(3, 2), DRAFTS["poor"], 2, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_draws_follow_the_weights_and_leave_out_the_impossible() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64).log().expand(20_000, -1)
    noise = RequestNoise(torch.arange(20_000), torch.arange(4).expand(20_000, -1))
    draws = draw(log_probs, 5, noise.of(Use.TARGET))
    assert (draws[:, 3:] == -1).all()
    assert (draws[:, :3].sort(1).values == torch.arange(3)).all()
    both = ((draws[:, 0] == 1) & (draws[:, 1] == 0)).double().mean()
    assert float(both) == pytest.approx(0.3 * 0.5 / 0.7, abs=0.01)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"temperature is 0; expected more than 0"):
        LosslessSampling(0)
    titles = ItemTrie(random_titles(torch.Generator().manual_seed(0), 9, 3, VOCAB_SIZE))
    with pytest.raises(ValueError, match="RelaxedSampling draws the prefixes of a level together"):
        SpeculativeDecoder(TARGET, titles, NoDrafter(), RelaxedSampling())
