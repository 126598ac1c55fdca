"""What every prompt is."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog, Spelling, Vocabulary
from atspeed.catalog.item_catalog import ItemIndices

IGNORED = -100  # the label that the cross-entropies of torch and transformers skip


class Prompt(ABC):
    """The settings that say how a model reads a history and writes an item; a subclass is named by ``class_path``."""

    @abstractmethod
    def encoder(self, catalog: ItemCatalog, max_items: int) -> "PromptEncoder":
        """Return the encoder for a catalog.

        Args:
            catalog: the items.
            max_items: histories are cut to their last ``max_items`` items.

        Raises:
            ValueError: if the vocabulary or the settings cannot serve the catalog.
        """


class PromptEncoder(ABC):
    """From histories to the token ids of one vocabulary, for one catalog.

    Attributes:
        vocabulary: of the model.
        spelling: how the model writes an item.
        max_items: histories are cut to their last ``max_items`` items.
        learns_history: whether the items of a history are labels, too; otherwise the response is all that is learnt.
    """

    learns_history: bool = False
    vocabulary: Vocabulary
    spelling: Spelling
    max_items: int

    def cut(self, history: ItemIndices) -> ItemIndices:
        """Return the last items of a history, those that its prompt has."""
        return history[max(len(history) - self.max_items, 0) :]

    @abstractmethod
    def encode(self, history: ItemIndices) -> Tensor:
        """Return the prompt of a history of item indices, ``[P]``, int64; it ends with the spelling's prefix."""

    @abstractmethod
    def encode_labelled(self, items: ItemIndices, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and labels of the last ``max_items + 1`` items to learn from, each ``[P]``, int64.

        The label of a token is the token itself, or ``IGNORED``.

        Args:
            items: a history and the item that came next.
            last_only: whether only the response, the last item, is to be learnt. A prompt whose history does not read
                like a response learns nothing else in any case.
        """

    @abstractmethod
    def num_tokens(self, num_items: np.ndarray) -> np.ndarray:
        """Return how many tokens :meth:`encode_labelled` has at most, by the number of items, the same shape, int64."""

    @property
    def max_sequence_tokens(self) -> int:
        """Tokens of the longest training sequence at most: a prompt and its response."""
        return int(self.num_tokens(np.array(self.max_items + 1)))

    @property
    @abstractmethod
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt at most."""

    def fingerprint(self) -> str:
        """Return a hash of some prompts and of all responses, which changes whenever prompt or tokenizer do."""
        digest = hashlib.sha256(np.array(self.spelling.prefix).tobytes())
        digest.update(self.spelling.sids.numpy().tobytes())
        for history in ([], [0], [0, 0]):
            digest.update(self.encode(history).numpy().tobytes())
        return digest.hexdigest()

    def pad(self, sequences: list[Tensor], padding_side: str) -> "PaddedTokens":
        """Return token sequences ``[P]`` as rows of one length, with the padding on the left or right."""
        pad = torch.nn.utils.rnn.pad_sequence
        return PaddedTokens(
            pad(sequences, batch_first=True, padding_value=self.vocabulary.pad_token, padding_side=padding_side),
            pad([torch.ones_like(s, dtype=torch.bool) for s in sequences], batch_first=True, padding_side=padding_side),
        )


@dataclass(frozen=True, eq=False)
class PaddedTokens:
    """Token sequences of one length.

    Attributes:
        tokens: ``[B, P]``, int64.
        mask: False at padding, ``[B, P]``, bool.
    """

    tokens: Tensor
    mask: Tensor
