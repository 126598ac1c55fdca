"""What training, validation and testing ask of a data set."""

from typing import Literal

import numpy as np

from atspeed.data.dataset import Dataset
from atspeed.data.examples import Examples, RequestExample, SequenceExample, evenly_spread
from atspeed.data.item_sequences import ItemSequences

Cuts = Literal["last", "every"]
"""Which items of a training window are asked for; see :func:`training_requests`."""


def training_windows(train: ItemSequences, max_history: int) -> Examples[SequenceExample]:
    """Cut each user's training items into windows of at most ``max_history + 1`` items.

    Neighbouring windows share one item, so that each item but a user's first is predicted once::

        items of a user       a b c d e f          max_history 3
        windows               a b c d
                                    d e f
    """
    predicted = np.maximum(train.lengths - 1, 1)  # an only item is a window, too
    counts = np.where(train.lengths > 0, -(-predicted // max_history), 0)  # windows per user
    users = np.arange(len(train)).repeat(counts)
    numbers = np.arange(len(users)) - (counts.cumsum() - counts).repeat(counts)  # of a window among its user's: 0 1 0 …
    starts = train.offsets[users] + numbers * max_history
    ends = np.minimum(starts + max_history + 1, train.offsets[users + 1])
    values = train.values
    return Examples(
        ends - starts, lambda row: SequenceExample(int(users[row]), values[starts[row] : ends[row]], last_only=False)
    )


def training_requests(windows: Examples[SequenceExample], cuts: Cuts = "last") -> Examples[RequestExample]:
    """Ask for the last item of each training window, or for each of its items but the first, given those before it.

    ::

        window        a b c d
        cuts: last    a b c → d
        cuts: every   a → b     a b → c     a b c → d
    """
    counts = np.ones_like(windows.num_items) if cuts == "last" else np.maximum(windows.num_items - 1, 1)  # per window
    rows = np.arange(len(windows)).repeat(counts)  # the window of each request
    asked = windows.num_items[rows] - counts.cumsum()[rows] + np.arange(len(rows))  # the item that it asks for

    def build(row: int) -> RequestExample:
        user, items, _ = windows[int(rows[row])]
        item = int(asked[row])
        return RequestExample(user, items[:item], items[item : item + 1], row)

    return Examples(asked + 1, build)


def validation_requests(data: Dataset) -> Examples[RequestExample]:
    """Ask for the first validation item of each user who has one, given the training items."""
    users = np.flatnonzero(data.valid.lengths)

    def build(row: int) -> RequestExample:
        user = int(users[row])
        return RequestExample(user, data.train[user], data.valid[user][:1], row)

    return Examples(data.train.lengths[users] + 1, build)


def response_sequences(requests: Examples[RequestExample]) -> Examples[SequenceExample]:
    """Return requests as sequences of which the last item is the label."""

    def build(row: int) -> SequenceExample:
        request = requests[row]
        return SequenceExample(request.user, np.concatenate((request.history, request.truth)), last_only=True)

    return Examples(requests.num_items, build)


def test_history(data: Dataset, user: int) -> np.ndarray:
    """Return what is known of a user before the test items: training and validation items."""
    return np.concatenate((data.train[user], data.valid[user]))


def test_requests(data: Dataset, num_users: int | None) -> Examples[RequestExample]:
    """Ask for the distinct test items of each user who has any, given all earlier items.

    Args:
        data: the data set.
        num_users: ask for this many users only, evenly spread over the data set; all if not given.

    Raises:
        ValueError: if no user has a test item.
    """
    users = np.flatnonzero(data.test.lengths)
    if not len(users):
        raise ValueError("no user has a test item")
    users = users[evenly_spread(range(len(users)), num_users or len(users))]

    def build(row: int) -> RequestExample:
        user = int(users[row])
        return RequestExample(user, test_history(data, user), list(dict.fromkeys(data.test[user].tolist())), row)

    return Examples(data.train.lengths[users] + data.valid.lengths[users] + 1, build)
