import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atspeed.data import ItemSequences
from atspeed.data.item_sequences import concatenate

LISTS = [[4, 7, 4], [], [2, 9]]


def test_sequences_are_spans_of_one_array() -> None:
    sequences = ItemSequences.from_lists(LISTS)
    assert sequences.offsets.tolist() == [0, 3, 3, 5]
    assert sequences.values.tolist() == [4, 7, 4, 2, 9]
    assert sequences.values.dtype == sequences.offsets.dtype == np.int64
    assert [sequences[user].tolist() for user in range(3)] == [items.tolist() for items in sequences] == LISTS
    assert np.shares_memory(sequences[2], sequences.values), "nothing is copied"
    assert sequences[-1].tolist() == [2, 9]
    with pytest.raises(IndexError):
        sequences[3]
    assert len(ItemSequences.from_lists([])) == 0


@pytest.mark.parametrize("offsets", [[], [0, 3, 4], [1, 3, 5], [0, 4, 3, 5]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to their 5 items"):
        ItemSequences(np.array(offsets, dtype=np.int64), np.arange(5))


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 99), max_size=4)] * 3), max_size=6))
def test_concatenated_sequences_keep_users_and_order(users: list[tuple[list[int], list[int], list[int]]]) -> None:
    parts = [ItemSequences.from_lists(user[part] for user in users) for part in range(3)]
    assert concatenate(*parts).tolist() == [sum(user, []) for user in users]
