import pytest
import torch

from atspeed.benchmark import Method
from atspeed.benchmark.measurement import Measurement, answers_of, items_by_codes
from atspeed.data import EmbeddedCatalog
from atspeed.decoding import Decoded, LosslessSampling, NoDrafter, TrieDrafter

TOKENS = EmbeddedCatalog(num_users=20, num_items=140).load().catalog.tokens
SIDS = TOKENS[[3, 5]]  # [2, L]
TRUTH = torch.tensor([[3], [7]])


def measured(seconds: list[float], scores: list[float], calls: int, method: Method | None = None) -> Measurement:
    """Two requests, each alone in a batch, with the same answers of two semantic IDs."""
    measurement = Measurement("name", method, items_by_codes(TOKENS), 2, 1)
    answers = answers_of(SIDS[None], torch.tensor([scores]))
    for row, elapsed in enumerate(seconds):
        count, first = torch.tensor([calls]), torch.tensor([[1, 0, 0]])
        levels = (calls - 1) * first, calls * first
        decoded = (
            Decoded(SIDS[None, :, 0], torch.tensor([scores]), count, 3 * count, *levels, loss_bound=torch.zeros(1))
            if calls
            else None
        )
        measurement.add(
            elapsed, answers, answers_of(SIDS[None], torch.tensor([[-1.0, -2.0]])), decoded, TRUTH[row : row + 1]
        )
    return measurement


def test_speedups_are_medians_of_ratios_and_a_ratio_of_totals() -> None:
    reference, plain = measured([4.0, 6.0], [-1.0, -2.0], 0), measured([2.0, 2.0], [-1.0, -2.0], 4)
    ours = measured([1.0, 4.0], [-1.0, -2.001], 2, Method(TrieDrafter())).row(reference, plain, None)
    assert (ours.drafter, ours.verification, ours.requests) == ("TrieDrafter", "strict", 2)
    assert ours.speedup_vs_hf == pytest.approx((4 / 1 + 6 / 4) / 2)
    assert ours.total_speedup_vs_hf == pytest.approx(10 / 5)
    assert ours.speedup_vs_plain == pytest.approx((2 / 1 + 2 / 4) / 2)
    assert ours.requests_per_second == pytest.approx(2 / 5)
    assert (ours.target_calls, ours.draft_calls) == (2, 6)
    assert ours.accepted_levels == pytest.approx(1 / 2)
    assert ours.acceptance_rate == pytest.approx(1 / 2)
    assert ours.acceptance_by_level == (pytest.approx(1 / 2), None, None)
    assert ours.latency_ms.median == pytest.approx(2500)
    assert ours.identical_to_hf == 1
    assert ours.max_score_gap == pytest.approx(1e-3, rel=1e-3)
    assert ours.recall == pytest.approx(0.5)
    assert ours.recall_error == pytest.approx(0.5)  # of one user 1, of the other 0
    uncounted = reference.row(reference, plain, None)
    assert uncounted.target_calls is None
    assert uncounted.acceptance_by_level == (None, None, None)


def test_sampled_answers_are_not_compared() -> None:
    plain = measured([2.0, 2.0], [-1.0, -2.0], 4)
    row = measured([1.0, 4.0], [-2.0, -1.0], 2, Method(NoDrafter(), LosslessSampling(0.5))).row(plain, plain, None)
    assert (row.verification, row.temperature) == ("lossless", 0.5)
    assert row.identical_to_hf is row.max_score_gap is None
