import pytest
import torch

from atspeed.benchmark import Method
from atspeed.benchmark.agreement import Answer, answers_of
from atspeed.benchmark.measurement import Measurement, items_by_tokens
from atspeed.benchmark.method_row import Latency
from atspeed.benchmark.timing import Took
from atspeed.data import EmbeddedCatalog
from atspeed.decoding import BoundedTopK, Decoded, LosslessSampling, NoDrafter, TrieDrafter
from atspeed.decoding.cost import CallShape

CODES = EmbeddedCatalog(num_users=20, num_items=140).load().catalog.codes
SIDS = CODES[[3, 5]]  # [2, L]
TRUTH = torch.tensor([[3], [7]])


def measured(
    seconds: list[float],
    scores: list[float],
    calls: int,
    method: Method | None = None,
    answers: list[Answer] | None = None,
    loss_bound: float = 0.0,
) -> Measurement:
    """Two requests, each alone in a batch, with the same answers of two semantic IDs, or with the given ones."""
    measurement = Measurement("name", method, items_by_tokens(CODES), CODES.shape[1], 2, 1)
    answers = answers or answers_of(SIDS[None], torch.tensor([scores])) * 2
    for row, elapsed in enumerate(seconds):
        count, first = torch.tensor([calls]), torch.tensor([[1, 0, 0]])
        levels = (calls - 1) * first, calls * first
        decoded = (
            Decoded(SIDS[None, :, 0], torch.tensor([scores]), count, 3 * count, *levels, torch.tensor([loss_bound]))
            if calls
            else None
        )
        measurement.add(Took(elapsed), answers[row : row + 1], decoded, TRUTH[row : row + 1])
    return measurement


def test_speedups_are_medians_of_ratios_and_a_ratio_of_totals() -> None:
    reference, plain = measured([4.0, 6.0], [-1.0, -2.0], 0), measured([2.0, 2.0], [-1.0, -2.0], 4)
    ours = measured([1.0, 4.0], [-1.0, -2.001], 2, Method(TrieDrafter())).row(reference, plain)
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
    uncounted = reference.row(reference, plain)
    assert uncounted.target_calls is None
    assert uncounted.acceptance_by_level == (None, None, None)


def test_events_and_tokens_are_summed_up_beside_the_wall_time() -> None:
    found, none = answers_of(SIDS[None], torch.tensor([[-1.0, -2.0]])), torch.zeros(1, dtype=torch.long)
    ours = measured([], [-1.0, -2.0], 0, Method(TrieDrafter()))
    shapes = [CallShape(30), CallShape(5, 1, 30)], [CallShape(7, 1)]
    for row, took in enumerate([Took(1.0, 0.5, 100), Took(3.0, 1.5, 300)]):
        levels = torch.zeros(2, 1, 3, dtype=torch.long)
        decoded = Decoded(SIDS[None, :, 0], torch.zeros(1, 2), none, none, *levels, none, *shapes)
        ours.add(took, found, decoded, TRUTH[row : row + 1])
    row = ours.row(measured([4.0, 4.0], [-1.0, -2.0], 0), ours)
    assert (row.latency_ms.median, row.latency_ms.p90) == (2000, pytest.approx(2800))
    assert row.device_ms == Latency(median=1000, mean=1000, p90=pytest.approx(1400))
    assert (row.target_tokens, row.draft_tokens) == (35, 7)
    assert ours.extra_bytes == 300
    assert row.execution == "Eager"
    unknown = measured([4.0, 4.0], [-1.0, -2.0], 0)
    assert unknown.extra_bytes is None
    assert unknown.row(unknown, ours).device_ms is unknown.row(unknown, ours).target_tokens is None


def test_sampled_answers_are_not_compared() -> None:
    plain = measured([2.0, 2.0], [-1.0, -2.0], 4)
    row = measured([1.0, 4.0], [-2.0, -1.0], 2, Method(NoDrafter(), LosslessSampling(0.5))).row(plain, plain)
    assert (row.verification, row.temperature) == ("lossless", 0.5)
    assert row.identical_to_hf is row.max_score_gap is None


def test_what_answers_have_in_common_and_what_is_lost_by_it() -> None:
    first, second = (tuple(sid) for sid in SIDS.tolist())
    other = tuple(CODES[9].tolist())
    scores = [-1.0, -2.0]
    plain = measured([2.0, 2.0], scores, 4)
    bounded = Method(NoDrafter(), BoundedTopK(0.2))
    answers = [Answer([second, other], scores), Answer([first, second], scores)]
    row = measured([1.0, 1.0], scores, 2, bounded, answers, loss_bound=-1.5).row(plain, plain)
    assert (row.epsilon, row.identical_to_hf, row.near_ties) == (0.2, None, None)
    assert row.overlap_with_hf == row.overlap_with_plain == pytest.approx((1 / 2 + 1) / 2)
    assert row.exact_share == pytest.approx(1 / 2)  # one of the two scores is above the bound
    assert row.recall_difference == pytest.approx((-1 + 0) / 2)  # the first user's item is at rank 0 of the first
    assert row.recall_difference_interval == pytest.approx(1.96 * 0.5)
    assert row.ndcg_difference == pytest.approx(-1 / 2)
    assert row.ndcg_difference_interval == pytest.approx(1.96 * 0.5)
    assert (row.illegal_rate, row.duplicate_rate) == (0, 0)
    assert plain.row(plain, plain).exact_share is None
    assert plain.row(plain, plain).recall_difference_interval == 0


def test_illegal_and_repeated_semantic_ids_are_counted() -> None:
    first, second = (tuple(sid) for sid in SIDS.tolist())
    answers = [Answer([first, (1, 1, 1, 1)], [-1.0, -2.0]), Answer([second, second], [-1.0, -2.0])]
    plain = measured([2.0, 2.0], [-1.0, -2.0], 4)
    row = measured([1.0, 1.0], [-1.0, -2.0], 0, None, answers).row(plain, plain)
    assert (row.illegal_rate, row.duplicate_rate) == (1 / 4, 1 / 4)
    assert row.overlap_with_plain == 1 / 2


def test_answers_leave_out_what_generate_pads_with() -> None:
    (answer,) = answers_of(SIDS[None], torch.tensor([[-1.0, -1e9]]))
    assert answer == Answer([tuple(SIDS[0].tolist())], [-1.0])
