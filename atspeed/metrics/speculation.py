"""What speculation saved, and whether its answers are those of plain beam search."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from atspeed.checks import require_at_least
from atspeed.metrics.mean import MeanOverRequests

PADDING = 0  # fills lists of leaves up: the trie's root, which is no leaf


class SpeculationCounts(NamedTuple):
    """Sums over requests, int64.

    Attributes:
        requests: how many, a scalar.
        target_calls: of all requests, a scalar.
        draft_calls: of all requests, a scalar.
        accepted: how often each level was accepted, ``[L - 1]``; the last level needs no draft.
        drafted: how often each level was drafted, ``[L - 1]``.
    """

    requests: Tensor
    target_calls: Tensor
    draft_calls: Tensor
    accepted: Tensor
    drafted: Tensor


def speculation_values(counts: SpeculationCounts) -> dict[str, Tensor]:
    """Return the values that are reported, float32 scalars; NaN where nothing was drafted.

    ``target_calls`` and ``draft_calls`` per request; ``accepted_levels`` per target call, that is, per round;
    ``acceptance_rate``: accepted levels over drafted levels; and ``acceptance_rate_level_<l>``, the same for each level
    (0 is the first code). A level that was drafted below a rejected one counts as drafted and not accepted.

    >>> counts = SpeculationCounts(*map(torch.tensor, (2, 3, 4, [2, 1], [2, 2])))
    >>> {name: float(value) for name, value in speculation_values(counts).items()}  # doctest: +NORMALIZE_WHITESPACE
    {'target_calls': 1.5, 'draft_calls': 2.0, 'accepted_levels': 1.0, 'acceptance_rate': 0.75,
     'acceptance_rate_level_0': 1.0, 'acceptance_rate_level_1': 0.5}
    """
    accepted, drafted = counts.accepted, counts.drafted
    rates = {f"acceptance_rate_level_{level}": rate for level, rate in enumerate((accepted / drafted).unbind())}
    return {
        "target_calls": counts.target_calls / counts.requests,
        "draft_calls": counts.draft_calls / counts.requests,
        "accepted_levels": accepted.sum() / counts.target_calls,
        "acceptance_rate": accepted.sum() / drafted.sum(),
        **rates,
    }


class Speculation(Metric):
    """:func:`speculation_values` over all requests and processes.

    Args:
        num_levels: codes of a semantic ID, L.
    """

    full_state_update = False
    requests: Tensor
    target_calls: Tensor
    draft_calls: Tensor
    accepted: Tensor
    drafted: Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        require_at_least(1, num_levels=num_levels)
        shapes = [()] * 3 + [(num_levels - 1,)] * 2
        for name, shape in zip(SpeculationCounts._fields, shapes, strict=True):
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, target_calls: Tensor, draft_calls: Tensor, accepted: Tensor, drafted: Tensor) -> None:
        """Add a batch of answers.

        Args:
            target_calls: target forward passes per request, ``[B]``, int64.
            draft_calls: draft forward passes per request, ``[B]``, int64.
            accepted: how often each level was accepted, ``[B, L - 1]``, int64; the last level needs no draft.
            drafted: how often each level was drafted, ``[B, L - 1]``, int64.
        """
        self.requests += len(target_calls)
        self.target_calls += target_calls.sum()
        self.draft_calls += draft_calls.sum()
        self.accepted += accepted.sum(0)
        self.drafted += drafted.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """Return the values by name; see :func:`speculation_values`."""
        return speculation_values(SpeculationCounts(*(getattr(self, name) for name in SpeculationCounts._fields)))


def answer_overlap(leaves: Tensor, exact: Tensor) -> Tensor:
    """Share of the exact answer that an answer contains, in any order; float32 ``[B]``; 1 if there is nothing to find.

    Args:
        leaves: the answers' trie leaves, ``[B, K]``, int64, padded with 0 (the root).
        exact: those of plain beam search, ``[B, K]``, int64, padded likewise.

    >>> answer_overlap(torch.tensor([[5, 6, 7]]), torch.tensor([[6, 5, 8]]))
    tensor([0.6667])
    """
    is_answer = exact != PADDING
    found = (exact[..., None] == leaves[:, None]).any(-1) & is_answer
    count = is_answer.sum(1)
    return torch.where(count > 0, found.sum(1) / count.clamp(min=1), 1.0)


def exact_share(leaves: Tensor, num_exact: Tensor) -> Tensor:
    """Share of an answer that is certainly that of plain beam search; float32 ``[B]``; 1 for an empty answer.

    Args:
        leaves: the answers' trie leaves, ``[B, K]``, int64, padded with 0 (the root).
        num_exact: how many of them are certain, ``[B]``, int64.

    >>> exact_share(torch.tensor([[5, 6, 7, 9], [5, 8, 0, 0]]), torch.tensor([3, 2]))
    tensor([0.7500, 1.0000])
    """
    count = (leaves != PADDING).sum(1)
    return torch.where(count > 0, num_exact / count.clamp(min=1), 1.0)


class ExactShare(MeanOverRequests):
    """Mean of :func:`exact_share` over requests."""

    def update(self, leaves: Tensor, num_exact: Tensor) -> None:
        """Add requests; arguments as in :func:`exact_share`."""
        self.add(exact_share(leaves, num_exact))


class AnswerOverlap(MeanOverRequests):
    """Mean of :func:`answer_overlap` over requests."""

    def update(self, leaves: Tensor, exact: Tensor) -> None:
        """Add requests; arguments as in :func:`answer_overlap`."""
        self.add(answer_overlap(leaves, exact))
