from collections import Counter

import pytest

from atspeed.data import EmbeddedCatalog


def test_a_seed_fixes_the_data() -> None:
    first, again, other = (EmbeddedCatalog(num_users=60, seed=seed).load() for seed in (3, 3, 4))
    assert first.train.tolist() == again.train.tolist()
    assert first.catalog.codes.equal(again.catalog.codes)
    assert first.train.tolist() != other.train.tolist()


def test_it_has_the_traits_that_matter() -> None:
    data = EmbeddedCatalog().load()
    assert len(data.users) >= 1000
    assert data.catalog.num_levels == 4
    sids = Counter(map(tuple, data.catalog.codes.tolist()))
    assert max(sids.values()) > 1, "some items share a semantic ID"
    assert {len(items) for items in data.test} == {1, 2}
    tastes = [{data.catalog.sid(item)[0] for item in items} for items in data.train]
    assert sum(len(taste) >= 2 for taste in tastes) > 0.9 * len(tastes), "tastes are interleaved"
    counts = sorted(Counter(data.train.values.tolist()).values(), reverse=True)
    assert sum(counts[: len(counts) // 10]) > 0.2 * sum(counts), "popularity is skewed"


@pytest.mark.parametrize(("name", "value"), [("num_users", 0), ("num_items", 10), ("num_tastes", 2)])
def test_sizes_out_of_range_are_named(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.source\.{name} is {value}"):
        EmbeddedCatalog(**{name: value})
