import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.catalog import CollisionRule, ExtraLevel, Kept, NextNearest, ResidualKMeans
from atspeed.catalog.collisions import NearestCodes

pytest.importorskip("faiss", reason="faiss is not installed: pip install 'atspeed[sids]'")


def nearest(kmeans: ResidualKMeans, embeddings: np.ndarray, old: np.ndarray | None = None) -> NearestCodes:
    """All rows as new items."""
    rows = np.arange(len(embeddings))
    old = np.empty((0, kmeans.num_levels), np.int32) if old is None else old
    return NearestCodes(kmeans, embeddings, rows, kmeans.encode(embeddings, rows), old)


def is_unique(codes: np.ndarray) -> bool:
    return len(np.unique(codes, axis=0)) == len(codes)


LINE = ResidualKMeans(np.array([[[0.0], [10.0]], [[0.0], [1.0]], [[0.0], [0.1]]], np.float32))
"""Two codes a level; an item is a number, such as 11.1 = 10 + 1 + 0.1 with the SID 1 1 1."""


def line(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32)[:, None]


def test_the_closest_keeps_its_code_and_the_other_takes_the_next_that_is_free() -> None:
    codebook = np.array([[[0.0], [1.0], [1.5], [3.0]]], np.float32)
    items = line(0.9, 1.01, 1.5)  # the first two are nearest to 1, and the third has 1.5
    assert NextNearest().resolve(nearest(ResidualKMeans(codebook), items)).tolist() == [[0], [1], [2]]


def test_items_that_have_no_room_below_their_prefix_take_the_next_prefix() -> None:
    same = line(0, 0, 0, 0, 0, 0)  # two fit below 0 0, two below 0 1, and two must go below 1
    codes = NextNearest().resolve(nearest(LINE, same))
    assert codes.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]]


def test_below_another_prefix_the_nearest_codes_are_chosen_anew() -> None:
    codes = NextNearest().resolve(nearest(LINE, line(9, 9, 9, 9, 9)))  # 9 = 10 + 0 + 0, or 0 + 1 + 0.1
    assert codes.tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 1, 1]]


def test_more_items_than_semantic_ids_are_refused() -> None:
    assert is_unique(NextNearest().resolve(nearest(LINE, line(*[0] * 8))))
    with pytest.raises(ValueError, match="9 items cannot have a semantic ID each: 3 levels of 2 codes make 8"):
        NextNearest().resolve(nearest(LINE, line(*[0] * 9)))


def test_an_old_item_keeps_its_code_however_far_it_is() -> None:
    old = np.array([[1, 1, 1], [1, 1, 0]], np.int32)
    assert NextNearest().resolve(nearest(LINE, line(11.1, 0), old)).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_the_extra_level_numbers_the_items_of_a_sid_after_the_old_ones() -> None:
    items = line(11.1, 0, 11.1, 0)
    assert ExtraLevel().resolve(nearest(LINE, items)).tolist() == [
        [1, 1, 1, 0],
        [0, 0, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 1],
    ]
    old = np.array([[1, 1, 1, 4], [1, 1, 1, 2]], np.int32)
    assert ExtraLevel().resolve(nearest(LINE, items, old))[:, -1].tolist() == [5, 0, 6, 1]


def test_kept_collisions_are_the_nearest_codes() -> None:
    assert Kept().resolve(nearest(LINE, line(11.1, 0, 11.1))).tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from([NextNearest(), ExtraLevel()]),
    num_levels=st.integers(1, 3),
    num_codes=st.integers(2, 4),
    points=st.lists(st.integers(0, 5), max_size=24),
    num_old=st.integers(0, 24),
    seed=st.integers(0, 9),
)
def test_every_item_gets_a_sid_of_its_own(
    rule: CollisionRule, num_levels: int, num_codes: int, points: list[int], num_old: int, seed: int
) -> None:
    """The embeddings are a few points, each of many items, so that prefixes overflow at all levels."""
    rng = np.random.default_rng(seed)
    kmeans = ResidualKMeans(rng.standard_normal((num_levels, num_codes, 2)).astype(np.float32))
    embeddings = rng.standard_normal((6, 2)).astype(np.float32)[points[: num_codes**num_levels]]
    old = rule.resolve(nearest(kmeans, embeddings[:num_old]))
    found = nearest(kmeans, embeddings[num_old:], old)
    new = rule.resolve(found)
    assert is_unique(np.concatenate((old, new)))
    assert new.dtype == np.int32
    assert new.min(initial=0) >= 0
    assert new[:, :num_levels].max(initial=0) < num_codes
    if isinstance(rule, ExtraLevel):
        assert np.array_equal(new[:, :num_levels], found.encoding.codes)
    else:
        free = ~(found.encoding.codes[:, None] == old).all(-1).any(1)  # items whose nearest SID no old item has
        stayed = (new == found.encoding.codes).all(1)
        assert stayed.sum() <= len(np.unique(found.encoding.codes[free], axis=0))
        _, sizes = np.unique(np.concatenate((old, found.encoding.codes))[:, :-1], axis=0, return_counts=True)
        if len(points) and sizes.max() <= num_codes:  # no prefix overflows
            assert stayed.sum() == len(np.unique(found.encoding.codes[free], axis=0))
            assert np.array_equal(new[:, :-1], found.encoding.codes[:, :-1])
