import numpy as np
import pytest
import torch

from atspeed.data import ItemSequences
from atspeed.preparation.interaction_factors import interaction_factors

TRAIN = ItemSequences.from_lists([[0, 1, 0], [1, 2], [4, 5], [], [5, 4, 6], [0, 2, 2, 2], [6]])
NUM_ITEMS = 8  # nobody has items 3 and 7


def exact_factors() -> np.ndarray:
    """By the dense SVD in float64."""
    counts = np.zeros((len(TRAIN), NUM_ITEMS))
    for user, items in enumerate(TRAIN):
        np.add.at(counts[user], items, 1)
    taken = counts > 0
    scale = np.sqrt(np.outer(taken.sum(1), taken.sum(0)))
    matrix = np.divide(np.log1p(counts), scale, out=np.zeros_like(counts), where=taken)
    _, sizes, vectors = np.linalg.svd(matrix, full_matrices=False)
    factors = vectors.T * sizes
    lengths = np.linalg.norm(factors, axis=1, keepdims=True)
    return np.divide(factors, lengths, out=np.zeros_like(factors), where=lengths > 1e-9)


def test_factors_are_those_of_the_dense_svd() -> None:
    factors, exact = interaction_factors(TRAIN, NUM_ITEMS, seed=0), exact_factors()
    assert factors.shape == (8, 7)  # no more dimensions than users
    assert factors.dtype == np.float32
    assert factors @ factors.T == pytest.approx(exact @ exact.T, abs=1e-5)  # signs and order of factors are free
    assert not factors[[3, 7]].any()
    together = factors @ factors.T
    assert together[:3, :3].min() > 0.3 > 1e-5 > abs(together[:3, 4:]).max(), "two groups of users share no item"


def test_the_seed_decides_and_the_global_generator_is_left_alone() -> None:
    rng = np.random.default_rng(0)
    train = ItemSequences.from_lists(rng.integers(200, size=(150, 6)).tolist())
    state = torch.random.get_rng_state()
    factors = [interaction_factors(train, 200, seed) for seed in (1, 1, 2)]
    assert factors[0].shape == (200, 64)
    assert np.array_equal(factors[0], factors[1])
    assert not np.array_equal(factors[0], factors[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_interaction_is_an_error() -> None:
    with pytest.raises(ValueError, match="no training interaction to make embeddings from; give some by embeddings"):
        interaction_factors(ItemSequences.from_lists([[], []]), 3, seed=0)
