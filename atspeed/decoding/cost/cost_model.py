"""Seconds of a call as a function of its shape: a monotone curve over tokens, and a term for what they look at."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, NamedTuple, Self

import numpy as np


class CallShape(NamedTuple):
    """The size of a forward pass, padding included.

    Attributes:
        tokens: new tokens per request.
        batch_size: requests.
        context: slots that the cache holds already, per request.
    """

    tokens: int
    batch_size: int = 1
    context: int = 0

    @property
    def total_tokens(self) -> int:
        """New tokens of all requests."""
        return self.tokens * self.batch_size

    @property
    def slots(self) -> int:
        """Keys in the caches of all requests after the call."""
        return self.batch_size * (self.context + self.tokens)

    @property
    def pairs(self) -> int:
        """Pairs of a new token and a key of its request, hidden by the mask or not."""
        return self.total_tokens * (self.context + self.tokens)


@dataclass(frozen=True)
class CostModel:
    """Seconds of a call: ``curve(total tokens) + per_slot · slots + per_pair · pairs``.

    The curve is linear between the totals that were measured, and beyond the last one, where a token costs
    :attr:`token_seconds`. It never falls, so a call with more tokens, requests or context never costs less::

        seconds │            ╱
                │          ╱
                │        ╱
                │ ──────╯         a call costs a as long as the weights are what it waits for, then b per token
                └──────────────
                  1   4   16  64   total tokens

    Attributes:
        totals: new tokens of all requests, ascending.
        curve: seconds of a call for each of them, less what the other two terms say; never falling.
        per_slot: seconds per key in the cache.
        per_pair: seconds per pair of a new token and a key.
    """

    totals: tuple[int, ...]
    curve: tuple[float, ...]
    per_slot: float
    per_pair: float

    @classmethod
    def fit(cls, measured: Iterable[tuple[CallShape, float]]) -> Self:
        """Fit what was measured, ``(shape, seconds)``.

        Of several calls of one shape the fastest counts, since whatever disturbs a call makes it slower. Calls that
        differ in their context alone give the terms of slots and pairs; what remains of all calls is made monotone by
        isotonic regression over the total of tokens.
        """
        points: dict[CallShape, float] = {}
        for shape, seconds in measured:
            points[shape] = min(seconds, points.get(shape, seconds))
        per_slot, per_pair = _fit_context(points)
        left: dict[int, list[float]] = defaultdict(list)
        for shape, seconds in points.items():
            left[shape.total_tokens].append(max(seconds - per_slot * shape.slots - per_pair * shape.pairs, 0.0))
        totals = sorted(left)
        curve = isotonic([mean(left[total]) for total in totals], [len(left[total]) for total in totals])
        return cls(tuple(totals), tuple(curve), per_slot, per_pair)

    def seconds(self, tokens: int, batch_size: int = 1, context: int = 0) -> float:
        """Return the seconds of a call; arguments as in :class:`CallShape`."""
        shape = CallShape(tokens, batch_size, context)
        return float(self._curve_at(shape.total_tokens)) + self.per_slot * shape.slots + self.per_pair * shape.pairs

    def seconds_by_tokens(self, most: int, batch_size: int = 1, context: int = 0) -> np.ndarray:
        """Return the seconds of calls with 1 to ``most`` tokens per request, after 0 for none: ``[most + 1]``."""
        tokens = np.arange(most + 1)
        slots = batch_size * (context + tokens)
        seconds = self._curve_at(batch_size * tokens) + self.per_slot * slots + self.per_pair * tokens * slots
        seconds[0] = 0.0
        return seconds

    def seconds_of(self, shapes: Iterable[CallShape]) -> float:
        """Return the seconds of several calls."""
        return sum(self.seconds(*shape) for shape in shapes)

    @property
    def token_seconds(self) -> float:
        """What a further token costs where there are many (b): the curve's slope over the upper half of its totals."""
        middle = max(bisect_right(self.totals, self.totals[-1] // 2) - 1, 0)
        return (self.curve[-1] - self.curve[middle]) / max(self.totals[-1] - self.totals[middle], 1)

    @property
    def call_price(self) -> float:
        """How many tokens cost what one more call costs: ``ρ = a / b``; infinite where tokens cost nothing.

        a is the time of a call for one token, b :attr:`token_seconds`.
        """
        return self.seconds(1) / self.token_seconds if self.token_seconds else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Return the record, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Return what :meth:`to_json` was called on."""
        return cls(tuple(record["totals"]), tuple(record["curve"]), record["per_slot"], record["per_pair"])

    def _curve_at(self, total: Any) -> Any:  # a number or an array
        beyond = np.maximum(total - self.totals[-1], 0) * self.token_seconds
        return np.interp(total, self.totals, self.curve) + beyond


def isotonic(values: list[float], weights: list[float]) -> list[float]:
    """Return the never falling sequence closest to ``values`` by weighted least squares (pool adjacent violators).

    >>> isotonic([1.0, 4.0, 2.0, 5.0], [1, 1, 1, 1])
    [1.0, 3.0, 3.0, 5.0]
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, length
    for value, weight in zip(values, weights, strict=True):
        length = 1
        while blocks and blocks[-1][0] > value:
            before, before_weight, before_length = blocks.pop()
            value = (before * before_weight + value * weight) / (before_weight + weight)
            weight, length = before_weight + weight, before_length + length
        blocks.append((value, weight, length))
    return [value for value, _, length in blocks for _ in range(length)]


def _fit_context(points: dict[CallShape, float]) -> tuple[float, float]:
    """Return the seconds per slot and per pair, from calls that differ in their context alone.

    Such calls differ by ``batch_size · Δcontext · (per_slot + tokens · per_pair)``; neither is negative.
    """
    by_tokens: dict[tuple[int, int], list[CallShape]] = defaultdict(list)
    for shape in points:
        by_tokens[shape.tokens, shape.batch_size].append(shape)
    tokens, per_key = [], []  # seconds per further key, over the new tokens that look at it
    for shapes in by_tokens.values():
        short, long = (choose(shapes, key=lambda shape: shape.context) for choose in (min, max))
        if long.context > short.context:
            tokens.append(long.tokens)
            per_key.append((points[long] - points[short]) / (long.slots - short.slots))
    if not tokens:
        return 0.0, 0.0
    x, y = np.array(tokens, dtype=float), np.array(per_key)
    per_pair, per_slot = np.polyfit(x, y, 1) if len(set(tokens)) > 1 else (0.0, y.mean())
    if per_pair < 0:
        per_pair, per_slot = 0.0, y.mean()
    elif per_slot < 0:
        per_pair, per_slot = (x * y).sum() / (x * x).sum(), 0.0
    return max(float(per_slot), 0.0), max(float(per_pair), 0.0)
