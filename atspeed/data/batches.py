"""Batches: examples, encoded and padded."""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from atspeed.data.examples import RequestExample, SequenceExample
from atspeed.prompts.prompt import IGNORED, PromptEncoder

BatchType = TypeVar("BatchType", covariant=True)


class SequenceBatch(NamedTuple):
    """Histories to learn from.

    Attributes:
        tokens: padded on the right, ``[B, P]``, int64.
        token_mask: False at padding, ``[B, P]``, bool.
        labels: -100 where a position has no label, ``[B, P]``, int64.
        users: row of each user in the data set, ``[B]``, int64.
    """

    tokens: Tensor
    token_mask: Tensor
    labels: Tensor
    users: Tensor


class DecoderInputs(TypedDict):
    """What a :class:`SpeculativeDecoder` reads of requests, by the names of its arguments."""

    prompts: Tensor
    prompt_mask: Tensor
    draft_prompts: Tensor
    draft_prompt_mask: Tensor


class RequestBatch(NamedTuple):
    """Requests for the next item.

    Attributes:
        users: row of each user in the data set, ``[B]``, int64.
        prompts: tokens of the target, padded on the left, ``[B, P]``, int64.
        prompt_mask: False at padding, ``[B, P]``, bool.
        draft_prompts: the same for the draft, which may have another prompt and vocabulary, ``[B, P']``, int64.
        draft_prompt_mask: False at padding, ``[B, P']``, bool.
        truth: item indices that came next, padded with -1, ``[B, R]``, int64.
        rows: index of each request in its split, ``[B]``, int64.
    """

    users: Tensor
    prompts: Tensor
    prompt_mask: Tensor
    draft_prompts: Tensor
    draft_prompt_mask: Tensor
    truth: Tensor
    rows: Tensor

    @property
    def decoder_inputs(self) -> DecoderInputs:
        """The prompts of both models and their masks."""
        return DecoderInputs(
            prompts=self.prompts,
            prompt_mask=self.prompt_mask,
            draft_prompts=self.draft_prompts,
            draft_prompt_mask=self.draft_prompt_mask,
        )


def collate_sequences(examples: Sequence[SequenceExample], encoder: PromptEncoder) -> SequenceBatch:
    """Encode and pad examples."""
    encoded = (encoder.encode_labelled(example.items, example.last_only) for example in examples)
    tokens, labels = zip(*encoded, strict=True)
    padded = encoder.pad(list(tokens), "right")
    return SequenceBatch(
        padded.tokens,
        padded.mask,
        torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
        torch.tensor([example.user for example in examples]),
    )


def collate_requests(
    examples: Sequence[RequestExample], encoder: PromptEncoder, draft_encoder: PromptEncoder
) -> RequestBatch:
    """Encode and pad examples, for the target and for the draft."""
    padded = encoder.pad([encoder.encode(example.history) for example in examples], "left")
    draft_padded = padded
    if draft_encoder is not encoder:
        draft_padded = draft_encoder.pad([draft_encoder.encode(example.history) for example in examples], "left")
    truth = [torch.tensor(example.truth, dtype=torch.long) for example in examples]
    return RequestBatch(
        users=torch.tensor([example.user for example in examples]),
        prompts=padded.tokens,
        prompt_mask=padded.mask,
        draft_prompts=draft_padded.tokens,
        draft_prompt_mask=draft_padded.mask,
        truth=torch.nn.utils.rnn.pad_sequence(truth, batch_first=True, padding_value=-1),
        rows=torch.tensor([example.row for example in examples]),
    )


class BatchedDataset(Dataset, Generic[BatchType]):
    """Batches, indexed by the *list* of their examples' indices (for a loader with ``batch_size=None``)."""

    def __init__(self, examples: Sequence, collate: Callable[[Sequence], BatchType]) -> None:
        self.examples = examples
        self.collate = collate

    def __getitem__(self, indices: list[int]) -> BatchType:
        return self.collate([self.examples[index] for index in indices])
