"""Ranking metrics against brute force, and two processes against one."""

import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.metrics import NDCGAtK, RecallAtK, ndcg_at_k, recall_at_k

requests = st.lists(
    st.tuples(
        st.lists(st.integers(0, 12), unique=True, max_size=8), st.lists(st.integers(0, 12), unique=True, min_size=1)
    ),
    min_size=1,
    max_size=5,
)


def pad(lists: list[list[int]]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(values, dtype=torch.long) for values in lists], batch_first=True, padding_value=-1
    )


@settings(deadline=None)
@given(requests, st.integers(1, 10))
def test_values_equal_brute_force(cases: list[tuple[list[int], list[int]]], k: int) -> None:
    recommended, truth = pad([items for items, _ in cases]), pad([items for _, items in cases])
    for row, (items, true) in enumerate(cases):
        gains = [1 / math.log2(rank + 2) for rank, item in enumerate(items[:k]) if item in true]
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(k, len(true))))
        assert float(recall_at_k(recommended, truth, k)[row]) == pytest.approx(len(gains) / len(true))
        assert float(ndcg_at_k(recommended, truth, k)[row]) == pytest.approx(sum(gains) / ideal, abs=1e-6)


def random_requests() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    recommended = torch.stack([torch.randperm(50, generator=generator)[:10] for _ in range(40)])
    truth = torch.stack([torch.randperm(50, generator=generator)[:4] for _ in range(40)])
    truth[::3, 2:] = -1
    return recommended, truth


def values_of(rows: slice) -> list[float]:
    metrics = RecallAtK(10), NDCGAtK(10)
    recommended, truth = (tensor[rows] for tensor in random_requests())
    for part in range(0, len(truth), 7):
        for metric in metrics:
            metric.update(recommended[part : part + 7], truth[part : part + 7])
    return [float(metric.compute()) for metric in metrics]


def in_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    values = values_of(slice(0, 25) if rank == 0 else slice(25, 40))
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}").write_text(repr(values))


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(in_process, (str(tmp_path),), nprocs=2)
    expected = values_of(slice(None))
    for rank in range(2):
        assert (tmp_path / str(rank)).read_text() == repr(expected)


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        RecallAtK(0)
