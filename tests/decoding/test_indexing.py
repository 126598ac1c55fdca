"""Sorting and scanning find the same."""

from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from atspeed.decoding import indexing
from atspeed.decoding.indexing import index_of, mark_members


@given(
    seed=st.integers(0, 2**31),
    num_rows=st.integers(1, 3),
    num_values=st.integers(0, 6),
    num_candidates=st.integers(0, 9),
    num_distinct=st.integers(1, 12),
)
def test_sorting_finds_what_scanning_finds(
    seed: int, num_rows: int, num_values: int, num_candidates: int, num_distinct: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(num_distinct, (num_rows, num_values), generator=generator)
    candidates = torch.randint(num_distinct, (num_rows, num_candidates), generator=generator)  # some twice
    distinct = torch.stack([torch.randperm(9, generator=generator)[:num_candidates] for _ in range(num_rows)])
    sets = torch.randint(num_distinct, (num_rows, num_values, 3), generator=generator)
    scanned = *index_of(values, candidates), mark_members(sets, distinct)
    with patch.object(indexing, "LARGEST_SCAN", -1):
        found = *index_of(values, candidates), mark_members(sets, distinct)
    for one, other in zip(scanned, found, strict=True):
        assert one.equal(other)
