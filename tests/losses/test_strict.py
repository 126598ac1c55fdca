"""AtSpeed-S against an independent float64 oracle, value and gradient."""

import math

import pytest
import torch

from atspeed.losses import AtSpeedS
from atspeed.losses.strict import top_k_density, top_k_reverse_kl

VALUE_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-5


def random_log_probs(seed: int, shape: tuple[int, int], legal: int | None = None) -> torch.Tensor:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2
    if legal is not None:
        logits[:, legal:] = -torch.inf
    return logits.log_softmax(-1)


def oracle(draft: list[float], target: list[float], k: int) -> float:
    """The formula of DESIGN.md section 6 for one prefix, in plain Python floats (float64)."""
    legal = [place for place, value in enumerate(draft) if value > -math.inf]
    top = sorted(legal, key=lambda place: -draft[place])[:k]
    reverse_kl = sum(math.exp(draft[i]) * (draft[i] - target[i]) for i in top)
    entropy = -sum(math.exp(draft[i]) * draft[i] for i in top)
    kth = math.exp(sorted((target[i] for i in legal), reverse=True)[k - 1]) if len(legal) >= k else 0.0
    return reverse_kl + kth * entropy


@pytest.mark.parametrize("k", [1, 3, 8, 20])
@pytest.mark.parametrize("legal", [None, 5, 1])
def test_value_equals_the_oracle(k: int, legal: int | None) -> None:
    draft, target = random_log_probs(0, (6, 8), legal), random_log_probs(1, (6, 8), legal)
    expected = [oracle(q, p, k) for q, p in zip(draft.double().tolist(), target.double().tolist(), strict=True)]
    torch.testing.assert_close(
        AtSpeedS(k)(draft, target), torch.tensor(expected), atol=VALUE_TOLERANCE, rtol=VALUE_TOLERANCE
    )


@pytest.mark.parametrize("k", [1, 3, 8])
def test_gradient_equals_finite_differences_of_the_oracle(k: int) -> None:
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    target = random_log_probs(3, (1, 6))
    logits.requires_grad_()
    AtSpeedS(k)(logits.log_softmax(-1), target).mean().backward()
    step = 1e-6
    for place in range(6):
        shifted = []
        for sign in (1, -1):
            moved = logits.detach().double().clone()
            moved[0, place] += sign * step
            shifted.append(oracle(moved.log_softmax(-1)[0].tolist(), target.double()[0].tolist(), k))
        numeric = (shifted[0] - shifted[1]) / (2 * step)
        assert logits.grad is not None
        assert abs(float(logits.grad[0, place]) - numeric) < GRADIENT_TOLERANCE


def test_reverse_kl_of_equal_distributions_is_zero_and_positive_over_all_children() -> None:
    log_probs = random_log_probs(4, (10, 7))
    torch.testing.assert_close(top_k_reverse_kl(log_probs, log_probs, 3), torch.zeros(10))
    assert (top_k_reverse_kl(log_probs, random_log_probs(5, (10, 7)), 7) > 0).all()


def test_density_uses_the_targets_own_kth_child() -> None:
    draft = torch.tensor([[0.7, 0.2, 0.1]]).log()
    target = torch.tensor([[0.1, 0.3, 0.6]]).log()  # its second best is 0.3, at the draft's second place by chance not
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2))
    torch.testing.assert_close(top_k_density(draft, target, 2), torch.tensor([0.3 * entropy]))


def test_illegal_children_change_nothing() -> None:
    draft, target = random_log_probs(6, (4, 5)), random_log_probs(7, (4, 5))
    pad = torch.full((4, 30), -torch.inf)
    padded = AtSpeedS(3)(torch.cat([draft, pad], 1), torch.cat([target, pad], 1))
    torch.testing.assert_close(padded, AtSpeedS(3)(draft, target))


def test_gradient_is_finite_where_children_are_missing() -> None:
    logits = torch.randn(4, 5, requires_grad=True)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] + [False] * 4, [True] * 4 + [False]])
    draft = logits.masked_fill(~mask, -torch.inf).log_softmax(-1)
    target = torch.randn(4, 5).masked_fill(~mask, -torch.inf).log_softmax(-1)
    AtSpeedS(3)(draft, target).mean().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[~mask] == 0).all()


def test_no_prefix_gives_no_loss() -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    loss = AtSpeedS(3)(logits.log_softmax(-1), torch.randn(0, 5))
    assert loss.shape == (0,)
    loss.sum().backward()


def test_beams_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="num_beams is 0; expected 1 or more"):
        AtSpeedS(0)
