"""Residual k-means: from item embeddings to the codes of semantic IDs."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

TRAINING_ROWS = 262_144
"""Most items that codebooks are trained on: 0.8 GB at 768 dimensions."""
CHUNK = 16_384
"""Items that are encoded at once: 50 MB at 768 dimensions."""
RANKED_CHUNK = 1_024
"""Items whose distances to all codes of a level are held at once: 33 MB at 8,192 codes."""


def require_faiss() -> Any:
    """Return the module ``faiss``; raise ``ImportError`` that says how to install it."""
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError("making semantic IDs needs faiss; install it by: pip install 'atspeed[sids]'") from error


@dataclass(frozen=True, eq=False)
class Encoding:
    """The nearest codes of some items.

    Attributes:
        codes: ``[items, L]``, int32.
        distances: squared distance of each item to its reconstruction, ``[items]``, float32.
        errors: relative reconstruction error after each level, ``Σ|x − x̂|² / Σ|x − mean|²``: 1 is no better than the
            mean of these items, 0 is exact.
    """

    codes: np.ndarray
    distances: np.ndarray
    errors: list[float]


class ResidualKMeans:
    """A codebook per level; an item's code is the nearest to what the levels before leave of its embedding.

    ::

        level                            0              1              2
        embedding x    ≈  codebooks[0][12] + codebooks[1][3] + codebooks[2][200]      SID <a_12> <b_3> <c_200>
        residual       x − codebooks[0][12]: its nearest neighbour in codebooks[1] has the number 3

    Embeddings come as an array ``[items, dim]`` of any floating type, which may be memory-mapped: only ``CHUNK`` of its
    rows are in memory as float32 at any time, besides the sample that the codebooks are trained on.

    Args:
        codebooks: ``[L, codes, dim]``, float32.
    """

    def __init__(self, codebooks: np.ndarray) -> None:
        self.codebooks = codebooks

    @property
    def num_levels(self) -> int:
        """Number of codebooks, ``L``."""
        return self.codebooks.shape[0]

    @property
    def num_codes(self) -> int:
        """Number of codes in a codebook."""
        return self.codebooks.shape[1]

    @property
    def dim(self) -> int:
        """Number of dimensions of an embedding."""
        return self.codebooks.shape[2]

    @classmethod
    def train(
        cls, embeddings: np.ndarray, levels: int, codes: int, seed: int, max_rows: int = TRAINING_ROWS
    ) -> "ResidualKMeans":
        """Train the codebooks one after the other, each by k-means (faiss, AFK-MC² initialisation).

        The same embeddings, settings and seed give the same codebooks on the same machine with the same number of
        threads and the same release of faiss. Elsewhere sums may be rounded differently.

        Args:
            embeddings: ``[items, dim]``.
            levels: number of codebooks.
            codes: codes in each of them.
            seed: seed of the sample and of k-means.
            max_rows: train on a random sample of this many items, if there are more.

        Raises:
            ImportError: if faiss is not installed.
            ValueError: if there are fewer items than codes.
        """
        faiss = require_faiss()
        num_items, dim = embeddings.shape
        size = min(num_items, max_rows)
        if codes > size:
            raise ValueError(
                f"codes is {codes}, but there are only {size} items to train on; set at most as many codes"
            )
        rows = np.sort(np.random.default_rng(seed).choice(num_items, size, replace=False))
        residuals = np.empty((size, dim), np.float32)
        for chunk, values in _chunks(embeddings, rows, CHUNK):
            residuals[chunk] = values
        codebooks = np.empty((levels, codes, dim), np.float32)
        for level, codebook in enumerate(codebooks):
            kmeans = faiss.Kmeans(
                dim,
                codes,
                seed=seed + level,
                init_method=faiss.ClusteringInitMethod_AFK_MC2,
                min_points_per_centroid=1,  # no warning on standard output
                max_points_per_centroid=size,  # no sample of the sample
            )
            kmeans.train(residuals)
            codebook[:] = kmeans.centroids
            index = _index(codebook)
            for start in range(0, size, CHUNK):
                values = residuals[start : start + CHUNK]
                values -= codebook[index.search(values, 1)[1][:, 0]]
        return cls(codebooks)

    def encode(self, embeddings: np.ndarray, rows: np.ndarray, given: np.ndarray | None = None) -> Encoding:
        """Return the nearest codes of some items.

        Args:
            embeddings: ``[items, dim]``.
            rows: which items, ``[R]``, int64.
            given: their codes of the first levels, if these are not to be the nearest, ``[R, up to L]``.
        """
        indexes = [_index(codebook) for codebook in self.codebooks]
        given = np.empty((len(rows), 0), np.int32) if given is None else given
        codes = np.empty((len(rows), self.num_levels), np.int32)
        codes[:, : given.shape[1]] = given
        distances = np.empty(len(rows), np.float32)
        squares = np.zeros(self.num_levels)  # of the residuals after each level
        total, mean = 0.0, np.zeros(self.dim)
        for chunk, residuals in _chunks(embeddings, rows, CHUNK):
            total += _square(residuals)
            mean += residuals.sum(0, dtype=np.float64) / len(rows)
            for level, codebook in enumerate(self.codebooks):
                if level >= given.shape[1]:
                    codes[chunk, level] = indexes[level].search(residuals, 1)[1][:, 0]
                residuals -= codebook[codes[chunk, level]]
                squares[level] += _square(residuals)
            distances[chunk] = np.einsum("nd,nd->n", residuals, residuals)
        deviation = total - len(rows) * mean.dot(mean)
        return Encoding(codes, distances, (squares / deviation if deviation > 0 else 0 * squares).tolist())

    def rank(self, embeddings: np.ndarray, rows: np.ndarray, given: np.ndarray) -> Iterator[np.ndarray]:
        """Yield, for one item after the other, the codes of a level by their distance, nearest first.

        Args:
            embeddings: ``[items, dim]``.
            rows: which items, ``[R]``, int64.
            given: their codes of the levels before, ``[R, level]``.

        Yields:
            ``[codes]``, int64.
        """
        level = given.shape[1]
        codebook = self.codebooks[level]
        norms = np.einsum("nd,nd->n", codebook, codebook)
        for chunk, residuals in _chunks(embeddings, rows, RANKED_CHUNK):
            for before, codes in zip(self.codebooks, given[chunk].T, strict=False):
                residuals -= before[codes]
            yield from (norms - 2 * residuals @ codebook.T).argsort(axis=1, kind="stable")

    def save(self, file: Path, metadata: dict[str, str]) -> None:
        """Write ``level_0``, ``level_1`` …, each ``[codes, dim]``, as safetensors with metadata."""
        save_file({f"level_{level}": codebook for level, codebook in enumerate(self.codebooks)}, file, metadata)

    @classmethod
    def load(cls, file: Path) -> tuple["ResidualKMeans", dict[str, str]]:
        """Return what :meth:`save` wrote, and its metadata."""
        with safe_open(file, "np") as tensors:
            levels = range(len(tensors.keys()))
            return cls(np.stack([tensors.get_tensor(f"level_{level}") for level in levels])), tensors.metadata() or {}


def _chunks(embeddings: np.ndarray, rows: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield positions in ``rows`` and copies of these rows, ``[size, dim]``, float32."""
    for start in range(0, len(rows), size):
        chunk = slice(start, start + size)
        yield chunk, embeddings[rows[chunk]].astype(np.float32, order="C", copy=False)


def _square(residuals: np.ndarray) -> float:
    return float(np.einsum("nd,nd->", residuals, residuals, dtype=np.float64))


def _index(codebook: np.ndarray) -> Any:
    index = require_faiss().IndexFlatL2(codebook.shape[1])
    index.add(codebook)
    return index
