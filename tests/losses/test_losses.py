"""Every loss against an independent float64 oracle in plain Python, value and gradient."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from atspeed.losses import (
    AlignmentLoss,
    AtSpeedR,
    AtSpeedS,
    Coverage,
    DensityRegularization,
    ForwardKL,
    JensenShannon,
    Prefixes,
    ReverseKL,
    ScoreRegression,
    SequenceKD,
    WeightedSum,
)
from atspeed.losses.atspeed_s import top_k_density, top_k_reverse_kl
from atspeed.losses.coverage import coverage_margin

VALUE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-5
Row = list[float]  # log-probabilities of a prefix's children


def log_probs(seed: int, shape: tuple[int, ...], legal: int | None = None) -> Tensor:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    if legal is not None:
        logits[..., legal:] = -torch.inf
    return logits.log_softmax(-1)


def make_prefixes(draft: Tensor, target: Tensor, **replaced: Tensor | int) -> Prefixes:
    """One request whose prefixes all count the same; the sequences go on as the target would."""
    count = len(draft)
    values = {
        "draft_scores": torch.zeros(1, count),
        "target_scores": torch.zeros(1, count),
        "shares": torch.full((1, count), 1 / count),
        "next_shares": target.exp()[None],
        "level": 0,
        "num_levels": 1,
        **replaced,
    }
    return Prefixes(draft_log_probs=draft[None], target_log_probs=target[None], **values)  # type: ignore[arg-type]


def reverse_kl(draft: Row, target: Row, k: int, remainder: bool = True) -> float:
    legal = [i for i, value in enumerate(draft) if value > -math.inf]
    top = sorted(legal, key=lambda i: -draft[i])[:k]
    total = sum(math.exp(draft[i]) * (draft[i] - target[i]) for i in top)
    left = [i for i in legal if i not in top]
    if remainder and left:
        q, p = (sum(math.exp(row[i]) for i in left) for row in (draft, target))
        total += q * (math.log(q) - math.log(p))
    return total


def density(draft: Row, target: Row, k: int) -> float:
    top = sorted((q for q in draft if q > -math.inf), reverse=True)[:k]
    ranked = sorted((p for p in target if p > -math.inf), reverse=True)
    return (math.exp(ranked[k - 1]) if len(ranked) >= k else 0.0) * -sum(math.exp(q) * q for q in top)


def total_variation(draft: Row, target: Row) -> float:
    return sum(abs(math.exp(q) - math.exp(p)) for q, p in zip(draft, target, strict=True)) / 2


def forward_kl(draft: Row, target: Row) -> float:
    return sum(math.exp(p) * (p - q) for q, p in zip(draft, target, strict=True) if p > -math.inf)


def jensen_shannon(draft: Row, target: Row) -> float:
    total = 0.0
    for log_q, log_p in zip(draft, target, strict=True):
        if log_p > -math.inf:
            q, p = math.exp(log_q), math.exp(log_p)
            total += p * math.log(2 * p / (p + q)) + q * math.log(2 * q / (p + q))
    return total / 2


def cross_entropy(draft: Row, target: Row) -> float:
    return -sum(math.exp(p) * q for q, p in zip(draft, target, strict=True) if p > -math.inf)


def huber(draft: Row, target: Row, k: int, margin: float, delta: float) -> float:
    ranked = sorted((p for p in target if p > -math.inf), reverse=True)
    kth = ranked[min(k, len(ranked)) - 1]
    errors = [abs(q - p) for q, p in zip(draft, target, strict=True) if p > -math.inf and p >= kth - margin]
    values = [error**2 / 2 if error < delta else delta * (error - delta / 2) for error in errors]
    return sum(values) / len(values)


CASES: dict[str, tuple[AlignmentLoss, Callable[[Row, Row], float]]] = {
    "AtSpeedS": (AtSpeedS(3), lambda q, p: reverse_kl(q, p, 3) + density(q, p, 3)),
    "AtSpeedS as printed": (AtSpeedS(3, remainder=False), lambda q, p: reverse_kl(q, p, 3, False) + density(q, p, 3)),
    "AtSpeedS, K = 1": (AtSpeedS(1), lambda q, p: reverse_kl(q, p, 1) + density(q, p, 1)),
    "AtSpeedS, all children": (AtSpeedS(8), lambda q, p: reverse_kl(q, p, 8) + density(q, p, 8)),
    "AtSpeedS, more than all": (AtSpeedS(20), lambda q, p: reverse_kl(q, p, 20)),
    "ReverseKL": (ReverseKL(3), lambda q, p: reverse_kl(q, p, 3)),
    "DensityRegularization": (DensityRegularization(3), lambda q, p: density(q, p, 3)),
    "AtSpeedR": (AtSpeedR(), total_variation),
    "ForwardKL": (ForwardKL(), forward_kl),
    "JensenShannon": (JensenShannon(), jensen_shannon),
    "SequenceKD": (SequenceKD(), cross_entropy),
    "Coverage, one certain prefix": (Coverage(3, 20, margin=0.0), forward_kl),
    "ScoreRegression": (ScoreRegression(3, 0.8, 0.5), lambda q, p: huber(q, p, 3, 0.8, 0.5)),
    "WeightedSum": (
        WeightedSum([ForwardKL(), AtSpeedR()], [0.5, 2.0], [3.0]),
        lambda q, p: 3 * (0.5 * forward_kl(q, p) + 2 * total_variation(q, p)),
    ),
}
cases = pytest.mark.parametrize("name", CASES)


@cases
@pytest.mark.parametrize("legal", [None, 5, 1])
def test_value_equals_the_oracle(name: str, legal: int | None) -> None:
    loss, oracle = CASES[name]
    for seed in range(6):
        draft, target = log_probs(seed, (1, 8), legal), log_probs(seed + 100, (1, 8), legal)
        expected = oracle(draft[0].double().tolist(), target[0].double().tolist())
        assert loss(make_prefixes(draft, target)).item() == pytest.approx(
            expected, abs=VALUE_TOLERANCE, rel=VALUE_TOLERANCE
        )


@cases
def test_gradient_equals_finite_differences_of_the_oracle(name: str) -> None:
    loss, oracle = CASES[name]
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(2)).requires_grad_()
    target = log_probs(3, (1, 8))
    loss(make_prefixes(logits.log_softmax(-1), target)).sum().backward()
    assert logits.grad is not None
    step = 1e-6
    for index in range(8):
        values = []
        for sign in (1, -1):
            moved = logits.detach().double().clone()
            moved[0, index] += sign * step
            values.append(oracle(moved.log_softmax(-1)[0].tolist(), target[0].double().tolist()))
        assert logits.grad[0, index].item() == pytest.approx(
            (values[0] - values[1]) / (2 * step), abs=GRADIENT_TOLERANCE
        )


@cases
def test_missing_children_change_nothing_and_gradients_stay_finite(name: str) -> None:
    loss, _ = CASES[name]
    pad = torch.full((4, 30), -torch.inf)
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(5)).requires_grad_()
    draft, target = logits.log_softmax(-1), log_probs(6, (4, 8))
    value = loss(make_prefixes(draft, target))
    padded = loss(make_prefixes(torch.cat([draft, pad], 1), torch.cat([target, pad], 1)))
    torch.testing.assert_close(padded, value)
    padded.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@cases
def test_padding_prefixes_add_nothing(name: str) -> None:
    loss, _ = CASES[name]
    draft, target = log_probs(7, (3, 8)), log_probs(8, (3, 8))
    shares = torch.tensor([[0.5, 0.5, 0.0]])
    expected = loss(make_prefixes(draft[:2], target[:2]))
    torch.testing.assert_close(loss(make_prefixes(draft, target, shares=shares)), expected)


@pytest.mark.parametrize(
    "loss", [ReverseKL(3), ReverseKL(8), AtSpeedR(), ForwardKL(), JensenShannon(), Coverage(3, 5, 0.0)]
)
def test_divergences_are_zero_for_equal_distributions_and_positive_otherwise(loss: AlignmentLoss) -> None:
    target = log_probs(9, (5, 8))
    torch.testing.assert_close(loss(make_prefixes(target, target)), torch.zeros(1), atol=1e-6, rtol=0)
    for seed in range(100, 120):
        assert loss(make_prefixes(log_probs(seed, (5, 8)), target)) > 0


def test_bounds() -> None:
    draft, target = (torch.tensor([row]).log() for row in ([1.0, 0.0, 1e-9], [0.0, 1.0, 1e-9]))
    draft, target = draft.clamp(min=-30), target.clamp(min=-30)
    assert AtSpeedR()(make_prefixes(draft, target)).item() == pytest.approx(1.0, abs=1e-6)
    assert JensenShannon()(make_prefixes(draft, target)).item() == pytest.approx(math.log(2), abs=1e-6)


def test_without_the_remainder_the_reverse_kl_falls_below_zero() -> None:
    """What the printed formula rewards: a draft that moves its mass out of its own top-K."""
    target = torch.tensor([[0.3, 0.3, 0.1, 0.1, 0.1, 0.1]]).log()
    draft = torch.tensor([[0.2, 0.2, 0.15, 0.15, 0.15, 0.15]]).log()
    assert top_k_reverse_kl(draft, target, 2, remainder=False) < 0 < top_k_reverse_kl(draft, target, 2)


def test_density_uses_the_targets_own_kth_child() -> None:
    draft = torch.tensor([[0.7, 0.2, 0.1]]).log()
    target = torch.tensor([[0.1, 0.3, 0.6]]).log()  # its second best is 0.3, the draft's second best has 0.3, too
    target = target[:, [0, 2, 1]]  # now the draft's second best has 0.6
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2))
    torch.testing.assert_close(top_k_density(draft, target, 2), torch.tensor([0.3 * entropy]))


def test_prefixes_count_by_their_shares_and_levels() -> None:
    draft, target = log_probs(10, (2, 8)), log_probs(11, (2, 8))
    shares = torch.tensor([[0.8, 0.2]])
    prefixes = make_prefixes(draft, target, shares=shares, num_levels=4)
    each = torch.tensor([forward_kl(q, p) for q, p in zip(draft.tolist(), target.tolist(), strict=True)])
    torch.testing.assert_close(ForwardKL()(prefixes), (shares * each).sum(1) / 4)


def test_coverage_adds_up_to_the_divergence_of_the_joint_distributions() -> None:
    """The chain rule: weighted by the target's probability, both levels give the KL over all pairs of codes."""
    root_q, root_p, q, p = log_probs(0, (1, 3)), log_probs(1, (1, 3)), log_probs(2, (3, 4)), log_probs(3, (3, 4))
    loss = Coverage(2, 4, margin=0.0)
    levels = [
        make_prefixes(root_q, root_p, num_levels=2),
        make_prefixes(q, p, draft_scores=root_q, target_scores=root_p, level=1, num_levels=2),
    ]
    joint_q, joint_p = (root_q.T + q).flatten().double(), (root_p.T + p).flatten().double()
    expected = (joint_p.exp() * (joint_p - joint_q)).sum()
    assert sum(loss(level).item() for level in levels) == pytest.approx(expected.item(), abs=1e-5)


def test_the_margin_equals_its_formula_and_lifts_what_the_draft_would_miss() -> None:
    draft = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -5.0, -torch.inf]], requires_grad=True)
    target = torch.tensor([[-9.0, -8.0, -1.0, -7.0, -2.0, -torch.inf]])
    value = coverage_margin(draft, target, num_beams=2, draft_beams=3)
    softplus = [math.log1p(math.exp(-3.0 - score)) for score in (-3.0, -5.0)]
    assert value.item() == pytest.approx(sum(softplus) / 2)
    value.sum().backward()
    assert draft.grad is not None
    assert draft.grad[0, [0, 1, 3, 5]].tolist() == [0, 0, 0, 0], "the threshold is a constant"
    assert draft.grad[0, 4] < draft.grad[0, 2] < 0, "the missed beam is lifted most"


def test_the_margin_is_part_of_the_loss_but_not_at_leaves_or_narrow_levels() -> None:
    draft, target = log_probs(0, (2, 8)), log_probs(1, (2, 8))
    scores = torch.tensor([[-0.5, -1.0]])
    settings = {"draft_scores": scores, "target_scores": scores, "num_levels": 3}
    with_margin, without = Coverage(2, 4, margin=1.0), Coverage(2, 4, margin=0.0)
    inner, leaves = (make_prefixes(draft, target, level=level, **settings) for level in (1, 2))
    margin = coverage_margin((scores[0, :, None] + draft).view(1, -1), (scores[0, :, None] + target).view(1, -1), 2, 4)
    torch.testing.assert_close(with_margin(inner) - without(inner), margin)
    torch.testing.assert_close(with_margin(leaves), without(leaves))
    wide = Coverage(2, 17, margin=1.0)  # 16 candidates: none can be missed
    torch.testing.assert_close(wide(inner), without(inner))


def test_a_margin_over_missing_candidates_is_finite() -> None:
    draft = torch.tensor([[-1.0, -2.0, -torch.inf, -torch.inf]], requires_grad=True)
    value = coverage_margin(draft, torch.tensor([[-1.0, -2.0, -torch.inf, -torch.inf]]), 3, 3)
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert draft.grad is not None
    assert draft.grad.isfinite().all()


def test_scores_of_all_prefixes_are_compared_above_one_threshold() -> None:
    draft, target = log_probs(0, (2, 8)), log_probs(1, (2, 8))
    draft_scores, target_scores = torch.tensor([[-0.5, -2.0]]), torch.tensor([[-0.2, -1.0]])
    rows = [
        (scores.T + values).flatten().double().tolist()
        for scores, values in ((draft_scores, draft), (target_scores, target))
    ]
    prefixes = make_prefixes(draft, target, draft_scores=draft_scores, target_scores=target_scores)
    value = ScoreRegression(3, 1.0, 0.5)(prefixes)
    assert value.item() == pytest.approx(huber(*rows, 3, 1.0, 0.5), abs=VALUE_TOLERANCE)
    padded = prefixes._replace(shares=torch.tensor([[1.0, 0.0]]))
    assert ScoreRegression(3, 1.0, 0.5)(padded).item() == pytest.approx(
        huber(*(row[:8] for row in rows), 3, 1.0, 0.5), abs=VALUE_TOLERANCE
    )


def test_a_sum_compares_leaves_if_one_of_its_terms_does() -> None:
    assert not WeightedSum([ScoreRegression(), ScoreRegression(1)]).compares_leaves
    assert WeightedSum([ScoreRegression(), ForwardKL()]).compares_leaves


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtSpeedS(0), "num_beams is 0; expected 1 or more"),
        (lambda: DensityRegularization(0), "num_beams is 0; expected 1 or more"),
        (lambda: Coverage(20, 10), "draft_beams is 10; expected 20 or more"),
        (lambda: Coverage(margin=-1.0), "margin is -1.0; expected 0 or more"),
        (lambda: ScoreRegression(0), "num_beams is 0; expected 1 or more"),
        (lambda: ScoreRegression(margin=-1.0), "margin is -1.0; expected 0 or more"),
        (lambda: ScoreRegression(delta=0.0), "delta is 0.0; expected more than 0"),
        (lambda: WeightedSum([]), "0 losses and 0 weights"),
        (lambda: WeightedSum([AtSpeedR()], [1.0, 2.0]), "1 losses and 2 weights"),
        (lambda: WeightedSum([AtSpeedR()], [-1.0]), "expected 0 or more"),
        (lambda: WeightedSum([AtSpeedR()], level_weights=[-1.0]), "expected 0 or more"),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_level_weights_fit_the_levels() -> None:
    loss = WeightedSum([AtSpeedR()], level_weights=[1.0, 2.0])
    draft, target = log_probs(0, (2, 8)), log_probs(1, (2, 8))
    with pytest.raises(ValueError, match="level_weights has 2 entries, a semantic ID 1 levels"):
        loss(make_prefixes(draft, target))
    first, second = (loss(make_prefixes(draft, target, level=level, num_levels=2)) for level in (0, 1))
    torch.testing.assert_close(second, 2 * first)
