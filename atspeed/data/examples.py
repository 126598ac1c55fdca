"""What a batch is made of: examples, built when a batch needs them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, overload

import numpy as np

from atspeed.catalog.item_catalog import ItemIndices

ExampleType = TypeVar("ExampleType", covariant=True)
ValueType = TypeVar("ValueType")


class SequenceExample(NamedTuple):
    """Items of a user to learn from.

    Attributes:
        user: row of the user in the data set.
        items: catalog indices in time order.
        last_only: whether only the last item is a label.
    """

    user: int
    items: ItemIndices
    last_only: bool


class RequestExample(NamedTuple):
    """A user's history and the items that came next.

    Attributes:
        user: row of the user in the data set.
        history: catalog indices in time order.
        truth: the items that came next.
        row: index of the request in its split.
    """

    user: int
    history: ItemIndices
    truth: ItemIndices
    row: int


class Examples(Sequence[ExampleType]):
    """A sequence of examples, each of which is built when it is asked for.

    Args:
        num_items: items of each example, those to be predicted counted as one, ``[examples]``, int64: samplers need
            the lengths of examples before the examples themselves.
        build: returns the example of an index.
    """

    def __init__(self, num_items: np.ndarray, build: Callable[[int], ExampleType]) -> None:
        self.num_items = num_items
        self._build = build

    def __len__(self) -> int:
        return len(self.num_items)

    @overload
    def __getitem__(self, index: int) -> ExampleType: ...

    @overload
    def __getitem__(self, index: slice) -> list[ExampleType]: ...

    def __getitem__(self, index: int | slice) -> ExampleType | list[ExampleType]:
        if isinstance(index, slice):
            return [self._build(each) for each in range(len(self))[index]]
        return self._build(range(len(self))[index])  # IndexError if there is no such example


def evenly_spread(values: Sequence[ValueType], count: int) -> list[ValueType]:
    """Return ``count`` of the values, evenly spread and in their order; all if there are fewer.

    >>> evenly_spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = min(count, len(values))
    return [values[number * len(values) // count] for number in range(count)]
