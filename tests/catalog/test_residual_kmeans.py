import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from atspeed.catalog import ResidualKMeans, residual_kmeans

pytest.importorskip("faiss", reason="faiss is not installed: pip install 'atspeed[sids]'")


def vectors(num_items: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_items, dim)).astype(np.float32)


def nearest_codes(kmeans: ResidualKMeans, embeddings: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Codes and relative errors, in float64, by the distances to all codes."""
    residuals, codes, errors = embeddings.astype(np.float64), [], []
    deviation = ((embeddings - embeddings.mean(0, dtype=np.float64)) ** 2).sum()
    for codebook in kmeans.codebooks.astype(np.float64):
        codes.append(((residuals[:, None] - codebook) ** 2).sum(-1).argmin(1))
        residuals = residuals - codebook[codes[-1]]
        errors.append((residuals**2).sum() / deviation)
    return np.stack(codes, axis=1), errors


def test_codes_and_errors_are_those_of_an_independent_float64_computation() -> None:
    embeddings = vectors(700) + 3  # whose mean is not zero
    kmeans = ResidualKMeans.train(embeddings, levels=3, codes=16, seed=0)
    encoding = kmeans.encode(embeddings, np.arange(700))
    codes, errors = nearest_codes(kmeans, embeddings)
    assert np.array_equal(encoding.codes, codes)
    assert encoding.errors == pytest.approx(errors, rel=1e-4)
    assert 1 > errors[0] > errors[1] > errors[2]
    rebuilt = sum(book[column] for book, column in zip(kmeans.codebooks, encoding.codes.T, strict=True))
    assert encoding.distances == pytest.approx(((embeddings - rebuilt) ** 2).sum(1), rel=1e-4)


def test_planted_clusters_are_recovered_level_by_level() -> None:
    rng = np.random.default_rng(0)
    clusters, parts = rng.integers(6, size=600), rng.integers(4, size=600)
    embeddings = 20 * vectors(6, 16, 1)[clusters] + 3 * vectors(4, 16, 2)[parts] + 0.05 * vectors(600, 16, 3)
    kmeans = ResidualKMeans.train(embeddings, levels=3, codes=6, seed=0)
    encoding = kmeans.encode(embeddings, np.arange(600))
    clusters_and_codes = set(zip(clusters.tolist(), encoding.codes[:, 0].tolist(), strict=True))
    assert len(clusters_and_codes) == len({code for _, code in clusters_and_codes}) == 6
    parts_and_codes = set(zip(parts.tolist(), encoding.codes[:, 1].tolist(), strict=True))
    assert len({code for _, code in parts_and_codes}) == len(parts_and_codes), "a code stands for one part"
    assert encoding.errors[1] < 1e-3


@pytest.mark.parametrize("max_rows", [300, 500])  # a sample, and all
def test_the_same_seed_gives_the_same_codebooks_and_another_one_others(max_rows: int) -> None:
    embeddings = vectors(500)
    books = [ResidualKMeans.train(embeddings, 2, 16, seed, max_rows).codebooks for seed in (4, 4, 5)]
    assert np.array_equal(books[0], books[1])
    assert not np.array_equal(books[0], books[2])


def test_chunks_give_what_one_chunk_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, rows = vectors(500), np.arange(3, 499)
    kmeans = ResidualKMeans.train(embeddings, 3, 16, 0)
    together = kmeans.encode(embeddings, rows)
    ranks = list(kmeans.rank(embeddings, rows, together.codes[:, :1]))
    monkeypatch.setattr(residual_kmeans, "CHUNK", 37)
    monkeypatch.setattr(residual_kmeans, "RANKED_CHUNK", 37)
    assert np.array_equal(ResidualKMeans.train(embeddings, 3, 16, 0).codebooks, kmeans.codebooks)
    apart = kmeans.encode(embeddings, rows)
    assert np.array_equal(apart.codes, together.codes)
    assert apart.distances == pytest.approx(together.distances)
    assert apart.errors == pytest.approx(together.errors)
    assert np.array_equal(list(kmeans.rank(embeddings, rows, together.codes[:, :1])), ranks)


def test_no_copy_of_all_embeddings_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "items.npy", vectors(40_000, 64))
    embeddings = np.load(tmp_path / "items.npy", mmap_mode="r")
    monkeypatch.setattr(residual_kmeans, "CHUNK", 1_000)
    tracemalloc.start()
    kmeans = ResidualKMeans.train(embeddings, 2, 4, 0, max_rows=2_000)
    kmeans.encode(embeddings, np.arange(40_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < embeddings.nbytes / 3  # it was a quarter


def test_codes_are_given_or_ranked_by_distance() -> None:
    embeddings, rows = vectors(50), np.array([7, 3, 40])
    kmeans = ResidualKMeans(vectors(3 * 5, seed=1).reshape(3, 5, 8))
    given = np.array([[4, 0], [1, 1], [2, 3]], np.int32)
    encoding = kmeans.encode(embeddings, rows, given)
    residuals = embeddings[rows] - kmeans.codebooks[0][given[:, 0]] - kmeans.codebooks[1][given[:, 1]]
    distances = ((residuals[:, None] - kmeans.codebooks[2]) ** 2).sum(-1)
    assert encoding.codes.tolist() == np.column_stack((given, distances.argmin(1))).tolist()
    assert encoding.distances == pytest.approx(distances.min(1))
    assert np.array_equal(list(kmeans.rank(embeddings, rows, given)), distances.argsort(1))


def test_equal_embeddings_are_exact_and_more_codes_than_items_are_refused() -> None:
    embeddings = np.ones((30, 8), np.float16)
    kmeans = ResidualKMeans.train(embeddings, 2, 4, 0)
    assert kmeans.encode(embeddings, np.arange(30)).errors == [0, 0]
    with pytest.raises(ValueError, match="codes is 31, but there are only 30 items"):
        ResidualKMeans.train(embeddings, 2, 31, 0)


def test_codebooks_are_loaded_as_saved(tmp_path: Path) -> None:
    kmeans = ResidualKMeans(vectors(12 * 5).reshape(12, 5, 8))  # more than ten levels: level_10 sorts before level_2
    kmeans.save(tmp_path / "codebooks.safetensors", {"seed": "3"})
    loaded, metadata = ResidualKMeans.load(tmp_path / "codebooks.safetensors")
    assert np.array_equal(loaded.codebooks, kmeans.codebooks)
    assert metadata == {"seed": "3"}
    assert (loaded.num_levels, loaded.num_codes, loaded.dim) == (12, 5, 8)
