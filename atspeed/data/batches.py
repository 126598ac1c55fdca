"""Batches, and the sampler that keeps their padding small."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from atspeed.data.prompts import IGNORED, CompactPrompt
from atspeed.data.vocabulary import PAD

BatchType = TypeVar("BatchType", covariant=True)
ValueType = TypeVar("ValueType")


def evenly_spread(values: Sequence[ValueType], count: int) -> list[ValueType]:
    """Return ``count`` of the values, evenly spread and in their order; all if there are not more.

    >>> evenly_spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    count = min(count, len(values))
    return [values[place * len(values) // count] for place in range(count)]


class SequenceBatch(NamedTuple):
    """Histories to be learnt, padded on the right: ``tokens`` and ``labels``, both ``[B, P]``, int64."""

    tokens: Tensor
    labels: Tensor


class RequestBatch(NamedTuple):
    """Requests for the next item.

    Attributes:
        users: row of each user in the data set, ``[B]``, int64.
        prompts: tokens, padded on the left, ``[B, P]``, int64.
        prompt_mask: True where a token is no padding, ``[B, P]``, bool.
        truth: item indices that came next, padded with -1, ``[B, R]``, int64.
        rows: place of each request among those of its split, ``[B]``, int64.
    """

    users: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    truth: Tensor
    rows: Tensor


class SequenceExample(NamedTuple):
    """Items to learn from; ``last_only``: only the last one is a label."""

    items: Sequence[int]
    last_only: bool


class RequestExample(NamedTuple):
    """A user's history, the items that came next, and the request's place among those of its split."""

    user: int
    history: Sequence[int]
    truth: Sequence[int]
    row: int


def collate_sequences(examples: Sequence[SequenceExample], prompt: CompactPrompt) -> SequenceBatch:
    """Encode and pad examples."""
    tokens, labels = zip(*(prompt.encode_labelled(*example) for example in examples), strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return SequenceBatch(
        pad(list(tokens), batch_first=True, padding_value=PAD),
        pad(list(labels), batch_first=True, padding_value=IGNORED),
    )


def collate_requests(examples: Sequence[RequestExample], prompt: CompactPrompt) -> RequestBatch:
    """Encode and pad examples."""
    pad = torch.nn.utils.rnn.pad_sequence
    prompts = [prompt.encode(example.history) for example in examples]
    return RequestBatch(
        users=torch.tensor([example.user for example in examples]),
        prompts=pad(prompts, batch_first=True, padding_value=PAD, padding_side="left"),
        prompt_mask=pad([torch.ones(len(p), dtype=torch.bool) for p in prompts], batch_first=True, padding_side="left"),
        truth=pad(
            [torch.tensor(example.truth, dtype=torch.long) for example in examples], batch_first=True, padding_value=-1
        ),
        rows=torch.tensor([example.row for example in examples]),
    )


class BatchedDataset(Dataset, Generic[BatchType]):
    """Examples, indexed by a *list* of positions that becomes one batch (a loader with ``batch_size=None``)."""

    def __init__(self, examples: Sequence, collate: Callable[[Sequence], BatchType]) -> None:
        self.examples = examples
        self.collate = collate

    def __getitem__(self, positions: list[int]) -> BatchType:
        return self.collate([self.examples[position] for position in positions])


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
    """

    def __init__(
        self,
        lengths: Sequence[int],
        max_tokens: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.max_tokens = max_tokens
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
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
        # As a generator, this runs at the first batch: a resuming Trainer makes the iterator before it sets the epoch.
        yield from batches[self.rank :: self.world_size]

    def __len__(self) -> int:
        return -(-len(self._batches()) // self.world_size)
