"""Two gloo processes give what one gives, for every metric."""

import json
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from atspeed.metrics import (
    AnswerOverlap,
    CatalogCoverage,
    ExactShare,
    HitRateAtK,
    MRRAtK,
    NDCGAtK,
    RecallAtK,
    Speculation,
)

NUM_ITEMS = 70


def random_batch(number: int) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(number)
    size = 3 + number
    recommended = torch.stack([torch.randperm(NUM_ITEMS, generator=generator)[:10] for _ in range(size)])
    truth = torch.randint(-1, NUM_ITEMS, (size, 4), generator=generator)
    truth[:, 0] = recommended[:, 3]
    counts = [torch.randint(1, 5, (size,), generator=generator) for _ in range(2)]
    accepted = torch.randint(0, 3, (size, 3), generator=generator)
    drafted = accepted + torch.randint(0, 3, (size, 3), generator=generator)
    return recommended, truth, (*counts, accepted, drafted)


def values_of(batches: list[int]) -> list[float]:
    ranking = [RecallAtK(5), RecallAtK(3, "reachable"), HitRateAtK(3), HitRateAtK(10, "next"), NDCGAtK(5), MRRAtK(5)]
    catalog, overlap, exact, speculation = CatalogCoverage(NUM_ITEMS, 4), AnswerOverlap(), ExactShare(), Speculation(4)
    for number in batches:
        recommended, truth, speculated = random_batch(number)
        for metric in ranking:
            metric.update(recommended, truth)
        catalog.update(recommended)
        overlap.update(recommended, recommended.roll(number, 0))
        exact.update(recommended, speculated[0])
        speculation.update(*speculated)
    values = [*(metric.compute() for metric in (*ranking, catalog, overlap, exact)), *speculation.compute().values()]
    return [float(value) for value in values]


def in_process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    values = values_of([0, 1, 2] if rank == 0 else [3])  # one process has more than the other
    torch.distributed.destroy_process_group()
    Path(folder, f"{rank}").write_text(json.dumps(values))


@pytest.mark.distributed
def test_two_processes_equal_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(in_process, (str(tmp_path),), nprocs=2)
    expected = values_of([0, 1, 2, 3])
    assert len(expected) == 9 + 4 + 3
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text()) == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(values_of([0, 1, 2]), rel=1e-3)
