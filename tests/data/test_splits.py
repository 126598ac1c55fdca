"""Examples of the splits against plain loops over users' lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atspeed.data import Dataset, ItemSequences, splits
from atspeed.data.dataset import item_table
from atspeed.data.examples import Examples

CATALOG = item_table((str(item) for item in range(10)), ([f"<a_{item}>"] for item in range(10)))
ITEMS = st.lists(st.integers(0, 9), max_size=12)
USERS = st.lists(st.tuples(ITEMS, ITEMS, ITEMS), min_size=1, max_size=6)


def dataset(users: list[tuple[list[int], list[int], list[int]]]) -> Dataset:
    parts = (ItemSequences.from_lists(user[part] for user in users) for part in range(3))
    return Dataset(CATALOG, [str(user) for user in range(len(users))], *parts)


def plain(examples: Examples) -> list[tuple]:
    return [tuple(np.asarray(field).tolist() for field in example) for example in examples]


@given(users=USERS, max_history=st.integers(1, 5))
def test_training_windows_and_their_requests(users: list, max_history: int) -> None:
    windows = splits.training_windows(dataset(users).train, max_history)
    expected = [
        (user, train[start : start + max_history + 1])
        for user, (train, _, _) in enumerate(users)
        for start in range(0, max(len(train) - 1, 1), max_history)
        if train
    ]
    assert plain(windows) == [(user, items, False) for user, items in expected]
    assert windows.num_items.tolist() == [len(items) for _, items in expected]
    requests = splits.training_requests(windows)
    assert plain(requests) == [(user, items[:-1], items[-1:], row) for row, (user, items) in enumerate(expected)]
    assert requests.num_items.tolist() == [len(items) for _, items in expected]
    expected = [
        (user, items[:cut], items[cut : cut + 1])
        for user, items in expected
        for cut in range(min(1, len(items) - 1), len(items))
    ]
    requests = splits.training_requests(windows, "every")
    assert plain(requests) == [(*request, row) for row, request in enumerate(expected)]
    assert requests.num_items.tolist() == [len(history) + 1 for _, history, _ in expected]


@given(users=USERS)
def test_validation_asks_for_the_first_item(users: list) -> None:
    requests = splits.validation_requests(dataset(users))
    expected = [(user, train, valid[:1]) for user, (train, valid, _) in enumerate(users) if valid]
    assert plain(requests) == [(*request, row) for row, request in enumerate(expected)]
    assert requests.num_items.tolist() == [len(train) + 1 for _, train, _ in expected]
    sequences = splits.response_sequences(requests)
    assert plain(sequences) == [(user, train + truth, True) for user, train, truth in expected]


@given(users=USERS.filter(lambda users: any(test for _, _, test in users)))
def test_testing_asks_for_all_items(users: list) -> None:
    requests = splits.test_requests(dataset(users), None)
    expected = [
        (user, train + valid, list(dict.fromkeys(test))) for user, (train, valid, test) in enumerate(users) if test
    ]
    assert plain(requests) == [(*request, row) for row, request in enumerate(expected)]
    assert requests.num_items.tolist() == [len(history) + 1 for _, history, _ in expected]


def test_examples_are_built_when_they_are_asked_for() -> None:
    built: list[int] = []
    examples = Examples(np.ones(10, dtype=np.int64), lambda index: built.append(index) or index)  # type: ignore[func-returns-value]
    assert (len(examples), built) == (10, [])
    assert (examples[3], examples[-1], examples[2:6:2]) == (3, 9, [2, 4])
    assert built == [3, 9, 2, 4]
