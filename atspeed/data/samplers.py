"""The samplers: batches dealt out to processes, and batches with little padding."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DistributedSampler, Sampler


class BatchesInTurn(DistributedSampler):
    """Batches in order, dealt out to the processes in turn: each batch goes to one process only.

    A Trainer leaves this sampler alone, because it is a ``DistributedSampler``; the one that it would put in its place
    repeats examples until all processes have the same number.

    Args:
        positions: the examples, in order.
        batch_size: examples of a batch.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(self, positions: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(positions, world_size, rank, shuffle=False)  # type: ignore[arg-type]
        starts = range(rank * batch_size, len(positions), world_size * batch_size)
        self.batches = [list(positions[start : start + batch_size]) for start in starts]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class LengthBucketSampler(Sampler[list[int]]):
    """Batches of examples of nearly one length.

    Examples are shuffled, sorted by length (those of one length stay shuffled) and cut into batches of at most
    ``max_tokens``, padding included; then the batches are shuffled. So every epoch has the same number of batches, of
    the same sizes. The order depends on ``seed`` and epoch only.

    Args:
        lengths: tokens of each example.
        max_tokens: tokens of a batch at most; an example that is longer makes a batch alone.
        shuffle: if False, the batches come in order of length, the longest first (memory runs out at once or never).
        seed: seed of the order.
        rank: this process; batches are dealt out in turn.
        world_size: number of processes; each gets the same number of batches, so that none waits for ever (the first
            batches are dealt twice if they do not divide).
        batches_done: says, when an epoch begins, how many of its batches are to be passed over: those that a fit had
            learnt from before it was killed.
    """

    def __init__(
        self,
        lengths: Sequence[int],
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
            batches = [batches[place] for place in torch.randperm(len(batches), generator=generator)]
        return batches

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        batches += batches[: -len(batches) % self.world_size]
        # As a generator, this runs at the first batch: a resuming Trainer makes the iterator before it knows the epoch
        # and the batches that are done.
        yield from batches[self.rank :: self.world_size][self.batches_done() :]

    def __len__(self) -> int:
        return -(-len(self._batches()) // self.world_size)
