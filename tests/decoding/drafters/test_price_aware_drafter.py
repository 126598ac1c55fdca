"""Widths by the price of a call."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from atspeed.decoding import (
    BoundedTopK,
    Decoded,
    Drafter,
    ItemTrie,
    LosslessSampling,
    NoDrafter,
    PrefixScorer,
    PriceAwareDrafter,
    SpeculativeDecoder,
    Verifier,
    request_seeds,
)
from atspeed.decoding.beams import beams_by_depth
from atspeed.decoding.cost import measured_cost
from atspeed.decoding.drafters.calibration import calibrate
from atspeed.decoding.drafters.drafter import Proposal
from atspeed.decoding.drafters.plan import make_plan
from atspeed.decoding.drafters.price_aware_drafter import choose_width
from tests.decoding.priced import CHEAP, Priced, calibration_of, cost_with, similar_model
from tests.decoding.tiny import random_prompts, random_sids, tiny_model

VOCAB_SIZE = 12
GENERATOR = torch.Generator().manual_seed(5)
TRIE = ItemTrie(random_sids(GENERATOR, 300, [7, 8, 9]))
PROMPTS, MASK = random_prompts(GENERATOR, [3, 9, 5, 7, 4, 8], VOCAB_SIZE)
TARGET = tiny_model("llama", VOCAB_SIZE)
OTHER = similar_model(TARGET)
K = 5


def decode(drafter: Drafter, verifier: Verifier | None = None, rows: slice = slice(None), seed: int = 0) -> Decoded:
    decoder = SpeculativeDecoder(TARGET, TRIE, drafter, verifier, OTHER)
    return decoder(PROMPTS[rows], MASK[rows], K, seeds=request_seeds(seed, torch.arange(len(PROMPTS))[rows]))


def tokens_of(decoded: Decoded) -> int:
    return sum(shape.tokens for shape in decoded.target_shapes)


def real_calibration():  # type: ignore[no-untyped-def]
    with torch.inference_mode():
        beams = beams_by_depth(PrefixScorer(TARGET, TRIE, PROMPTS, MASK), K)
        return calibrate(OTHER, TRIE, [(PROMPTS, MASK, beams)])


def test_dearer_calls_buy_more_tokens_and_fewer_calls() -> None:
    calibration = real_calibration()
    runs = [decode(Priced(price, calibration), rows=slice(1)) for price in (0.1, 20, 1000)]
    plain = decode(NoDrafter(), rows=slice(1))
    tokens, calls = [tokens_of(run) for run in runs], [int(run.target_calls) for run in runs]
    assert (tokens[0], calls[0]) == (tokens_of(plain), 3), "where calls cost nothing, nothing is proposed"
    assert tokens[0] < tokens[1] < tokens[2]
    assert calls[2] == 1, "where tokens cost nothing, one call is enough"


def test_a_narrow_level_is_taken_complete_without_a_draft_call() -> None:
    decoded = decode(Priced(20, None), rows=slice(1))
    assert int(decoded.draft_calls) == 0
    assert int(decoded.target_calls) < 3
    assert decoded.accepted[0].tolist()[0] == 1


def test_an_uncalibrated_draft_is_not_asked_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        decoded = decode(PriceAwareDrafter(), rows=slice(1))
    assert "no calibration" in caplog.text
    assert "atspeed tune" in caplog.text
    assert int(decoded.draft_calls) == 0


def test_it_needs_a_draft() -> None:
    with pytest.raises(ValueError, match="PriceAwareDrafter needs a draft"):
        SpeculativeDecoder(TARGET, TRIE, PriceAwareDrafter())
    with pytest.raises(ValueError, match="batch_size"):
        PriceAwareDrafter(batch_size=0)


def test_the_costs_of_both_models_are_its_figures() -> None:
    drafter = PriceAwareDrafter()
    drafter.prepare(TARGET, OTHER, 0.0)
    assert (drafter._target_cost, drafter._draft_cost) == (measured_cost(TARGET), measured_cost(OTHER))


@pytest.mark.parametrize("verifier", [BoundedTopK(0.2), LosslessSampling()], ids=["bounded", "lossless"])
def test_where_answers_depend_on_proposals_these_do_not_depend_on_the_batch(verifier: Verifier) -> None:
    drafter = Priced(25, real_calibration(), batch_size=4)
    together = decode(drafter, verifier).target_calls
    alone = torch.cat([decode(drafter, verifier, slice(row, row + 1)).target_calls for row in range(len(PROMPTS))])
    assert together.equal(alone)
    sizes = [(key[1], key[2]) for key in drafter._plans]
    assert set(sizes) == {(4, 64)}, "the configured batch, and no prompt's length"


def test_strict_prices_are_those_of_the_batch_at_hand() -> None:
    drafter = Priced(25, real_calibration(), batch_size=4)
    decode(drafter)
    assert (K, len(PROMPTS), 32) in drafter._plans


def test_a_bounded_level_takes_fewer_nodes() -> None:
    calibration = real_calibration()
    strict, bounded = (
        [decode(Priced(60, calibration), verifier, slice(row, row + 1)) for row in range(len(PROMPTS))]
        for verifier in (BoundedTopK(0.0), BoundedTopK(0.5))
    )
    assert sum(map(tokens_of, bounded)) < sum(map(tokens_of, strict))
    assert sum(int(each.target_calls) for each in bounded) <= sum(int(each.target_calls) for each in strict)


def test_in_a_batch_a_level_is_proposed_for_all_requests_or_for_none() -> None:
    """Below the best first codes are 1 to 7 children; in the batch, so many pay for one of the requests only."""
    trie = ItemTrie(torch.tensor([[first, second, 0] for first in range(1, 8) for second in range(first)]))
    sizes = []

    class Noted(Priced):
        def propose(self, *args: Any) -> Proposal:
            proposal = super().propose(*args)
            sizes.append(proposal.nodes.shape)
            return proposal

    for rows in (slice(1), slice(len(PROMPTS))):
        decoder = SpeculativeDecoder(TARGET, trie, Noted(13, None), draft=OTHER)
        decoder(PROMPTS[rows], MASK[rows], num_beams=1)
    assert sizes == [(1, 7), (1, 0), *[(len(PROMPTS), 0)] * 3]


def test_a_batch_is_spared_its_call_only_if_no_request_needs_it() -> None:
    plan = make_plan(cost_with(30), CHEAP, calibration_of(3, 3), 3, 3, 4, 16)
    outlook, covered = plan.outlook(np.array([0]), 0), np.full((1, 1), 0.9)
    (gain,) = plan.gain(outlook, plan.tokens[:1], covered, np.array([[5]]), 0.5, np.array([[2]]))[0]
    cost = cost_with(30)
    all_four, three = cost.seconds(3, 4), cost.seconds(3, 3)
    succeeds, spared = 0.45, 0.45**4
    expected = spared * all_four / 4 + (succeeds - spared) * (all_four - three)
    expected += succeeds * outlook.value_below[0, 21] + 0.45 * (all_four - cost.seconds(1, 4)) / 4
    expected -= (cost.seconds(21, 4) - cost.seconds(16, 4)) / 4 + plan.engine_seconds
    assert gain == pytest.approx(expected)


def test_the_width_maximises_the_gain_over_all_widths() -> None:
    """Against the formula in plain Python."""
    plan = make_plan(cost_with(30), CHEAP, calibration_of(3, 3), 3, 3, 1, 16)
    outlook = plan.outlook(np.array([0]), 0)
    scores = -torch.tensor([[0.1, 0.5, 0.9, 1.0, 1.4, 1.5, 2.5, 4.0, 4.1, 9.0]])
    nodes = torch.arange(1, 11)[None]
    choice = choose_width(nodes, scores, plan, outlook, plan.tokens[:1], np.ones((1, 1)), 0.0)
    odds = [1 / (1 + torch.exp(-2.0 * (score + 0.9))) for score in scores[0]]

    def seconds(tokens: int) -> float:
        return 0.0 if tokens == 0 else cost_with(30).seconds(tokens)

    gains = []
    for n in range(len(odds) + 1):
        found = float(sum(odds[:n]) / sum(odds))
        coverage = found**3
        below = float(outlook.value_below[0, 16 + n])
        missing = max(1, round(3 - 3 * found))
        saved = coverage * (seconds(3) + below) + (1 - coverage) * (seconds(3) - seconds(missing))
        gains.append(saved - (seconds(16 + n) - seconds(16)))
    best = max(range(len(gains)), key=lambda n: gains[n])
    assert 3 < best < 10
    assert choice.width.item() == best
    assert choice.nodes.tolist() == [list(range(1, best + 1))]
    assert choice.coverage.item() == pytest.approx(float((sum(odds[:best]) / sum(odds)) ** 3), rel=1e-4)


def test_values_grow_from_the_deepest_level_up() -> None:
    plan = make_plan(cost_with(200), CHEAP, calibration_of(3, 4), 3, 4, 1, 16)
    values = plan.outlooks.value_below[0, :, 16]  # of what is below each level, at the first call's tokens
    assert values[0] > values[1] > values[2] == 0
    assert (np.diff(plan.outlooks.value_below[..., 1:]) <= 1e-3).all(), (
        "the more tokens a call has, the less is worth adding"
    )
