"""Samplers: batches shared among processes, and batches with little padding."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import DistributedSampler, Sampler


class BatchesInTurn(DistributedSampler):
    """Batches in order, given to the processes in turn: each batch goes to exactly one process.

    ::

        indices 0 1 2 3 4, batch_size 2, 2 processes      process 0: [0 1] [4]      process 1: [2 3]

    It is a ``DistributedSampler`` so that a Trainer keeps it: the sampler that a Trainer would use instead repeats
    examples until all processes have the same number.

    Args:
        indices: of the examples, in order.
        batch_size: examples of a batch.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(indices, world_size, rank, shuffle=False)  # type: ignore[arg-type]
        starts = range(rank * batch_size, len(indices), world_size * batch_size)
        self.batches = [list(indices[start : start + batch_size]) for start in starts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class LengthBucketSampler(Sampler[list[int]]):
    """Batches of examples of similar length.

    Examples are shuffled, sorted by length (a stable sort: examples of equal length stay shuffled) and cut into
    batches of at most ``max_tokens``, padding included; then the batches are shuffled. So every epoch has the same
    number of batches with the same sizes. The order depends only on ``seed`` and epoch.

    Args:
        lengths: tokens of each example, ``[examples]``.
        max_tokens: most tokens in a batch; a longer example is a batch of its own.
        shuffle: if False, batches come in order of length, longest first, so that memory runs out at once or never.
        seed: seed of the order.
        rank: this process; batches go to the processes in turn.
        world_size: number of processes. Each gets the same number of batches, so that none waits forever: if the
            batches cannot be divided evenly, the first ones are used twice.
        batches_done: called when an epoch begins; returns how many of its batches to skip, because the fit trained on
            them before it was interrupted.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        max_tokens: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batches_done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.max_tokens = max_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_done = batches_done
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the Trainer calls this."""
        self.epoch = epoch

    def _batches(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        count = len(self.lengths)
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        order = order[self.lengths[order].argsort(descending=True, stable=True)]
        batches = []
        start = 0
        while start < count:  # sorted, so the first example is the longest of its batch
            size = max(1, self.max_tokens // int(self.lengths[order[start]]))
            batches.append(order[start : start + size].tolist())
            start += size
        if self.shuffle:
            batches = [batches[index] for index in torch.randperm(len(batches), generator=generator)]
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        batches += batches[: -len(batches) % self.world_size]
        # This is a generator, so it runs at the first batch: a resuming Trainer makes the iterator before it knows the
        # epoch and the batches that are done.
        yield from batches[self.rank :: self.world_size][self.batches_done() :]

    def __len__(self) -> int:
        return -(-len(self._batches()) // self.world_size)
