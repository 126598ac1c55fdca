"""Batches: examples, encoded and padded."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from atspeed.catalog.vocabulary import PAD
from atspeed.data.examples import RequestExample, SequenceExample
from atspeed.prompts.compact import IGNORED, CompactPrompt

BatchType = TypeVar("BatchType", covariant=True)


class SequenceBatch(NamedTuple):
    """Histories to learn from.

    Attributes:
        tokens: padded on the right, ``[B, P]``, int64.
        labels: -100 where a position has no label, ``[B, P]``, int64.
        users: row of each user in the data set, ``[B]``, int64.
    """

    tokens: Tensor
    labels: Tensor
    users: Tensor


class RequestBatch(NamedTuple):
    """Requests for the next item.

    Attributes:
        users: row of each user in the data set, ``[B]``, int64.
        prompts: tokens, padded on the left, ``[B, P]``, int64.
        prompt_mask: False at padding, ``[B, P]``, bool.
        truth: item indices that came next, padded with -1, ``[B, R]``, int64.
        rows: index of each request in its split, ``[B]``, int64.
    """

    users: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    truth: Tensor
    rows: Tensor


def collate_sequences(examples: Sequence[SequenceExample], prompt: CompactPrompt) -> SequenceBatch:
    """Encode and pad examples."""
    encoded = (prompt.encode_labelled(example.items, example.last_only) for example in examples)
    tokens, labels = zip(*encoded, strict=True)
    pad = torch.nn.utils.rnn.pad_sequence
    return SequenceBatch(
        pad(list(tokens), batch_first=True, padding_value=PAD),
        pad(list(labels), batch_first=True, padding_value=IGNORED),
        torch.tensor([example.user for example in examples]),
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
    """Batches, indexed by the *list* of their examples' indices (for a loader with ``batch_size=None``)."""

    def __init__(self, examples: Sequence, collate: Callable[[Sequence], BatchType]) -> None:
        self.examples = examples
        self.collate = collate

    def __getitem__(self, indices: list[int]) -> BatchType:
        return self.collate([self.examples[index] for index in indices])
