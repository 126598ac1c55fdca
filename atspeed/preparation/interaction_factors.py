"""Item embeddings from interactions alone."""

import numpy as np
import torch

from atspeed.data.item_sequences import ItemSequences

DIM = 64
POWER_ITERATIONS = 4


def interaction_factors(train: ItemSequences, num_items: int, seed: int) -> np.ndarray:
    """Return factors of the user-item matrix by randomised SVD: items that the same users take have similar ones.

    An entry of the matrix is ``log(1 + n) / √(users of the item · items of the user)`` for ``n`` interactions, so that
    popular items and busy users do not dominate (the scaling of spectral co-clustering, Dhillon 2001). The factors of
    an item are its row of ``V·S``, scaled to length 1: its direction counts, not how popular it is. An item without
    interactions gets zeros.

    Args:
        train: each user's training items.
        num_items: number of items.
        seed: seed of the randomised SVD (Halko et al. 2011).

    Returns:
        ``[num_items, min(DIM, users, items)]``, float32.

    Raises:
        ValueError: if there is no interaction.
    """
    if not len(train.values):
        raise ValueError("data.source has no training interaction to make embeddings from; give some by embeddings")
    num_users = len(train)
    users = np.arange(num_users).repeat(train.lengths)
    pairs, counts = np.unique(users * num_items + train.values, return_counts=True)
    users, items = np.divmod(pairs, num_items)
    degrees = np.bincount(users, minlength=num_users)[users] * np.bincount(items, minlength=num_items)[items]
    weights = torch.from_numpy((np.log1p(counts) / np.sqrt(degrees)).astype(np.float32))
    positions = torch.from_numpy(np.stack((users, items)))
    matrix = torch.sparse_coo_tensor(
        positions, weights, (num_users, num_items), is_coalesced=True, check_invariants=True
    )
    with torch.random.fork_rng(devices=[]):  # svd_lowrank takes no generator
        torch.manual_seed(seed)
        _, sizes, vectors = torch.svd_lowrank(matrix, min(DIM, num_users, num_items), POWER_ITERATIONS)
    factors = torch.nn.functional.normalize(vectors * sizes, dim=1).numpy()
    factors[np.bincount(items, minlength=num_items) == 0] = 0  # scaling made rounding errors as long as the others
    return factors
