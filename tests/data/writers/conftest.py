"""A data set that is hard to write."""

import pytest

from atspeed.data import Dataset, ItemSequences
from atspeed.data.dataset import item_table


@pytest.fixture
def awkward() -> Dataset:
    """Names with spaces and quotes, several items for testing, users with few items or none, gaps in the metadata."""
    return Dataset(
        item_table(
            ["07", 'a "b", c', "é", "4"],
            [["<a_1>", "<b_2>"], ["<a_1>", "<b_10>"], ["<a_2>", "<b_2>"], ["<a_2>", "<b_2>"]],
            title=["Olive soap", None, "Comb,\n\"wide\"\tand 'long'", ""],
            brand=[None, None, None, None],
        ),
        users=["u 1", "u,2", '"u3"', "u4", "u5", "u6"],
        train=ItemSequences.from_lists([[0, 1, 2] * 5, [3], [], [2], [1, 1], []]),
        valid=ItemSequences.from_lists([[3, 0], [], [1], [], [], []]),
        test=ItemSequences.from_lists([[1], [2, 0], [], [], [], [3, 0]]),
    )


@pytest.fixture
def awkward_left_out(awkward: Dataset) -> Dataset:
    """The same items; of each user with three items or more, one is for validation and one for testing."""
    return Dataset(
        awkward.items,
        users=["u 1", "u,2", "u3"],
        train=ItemSequences.from_lists([[0, 1, 2], [3, 3], []]),
        valid=ItemSequences.from_lists([[3], [], []]),
        test=ItemSequences.from_lists([[1], [], []]),
    )
