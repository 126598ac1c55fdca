"""Prompts that are tokenized as a text."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import TokenizerVocabulary
from atspeed.catalog.item_catalog import ItemIndices
from atspeed.prompts.history_text import HistoryText


class TextTokens:
    """Tokenizes the whole text of a prompt: where tokens may merge, its parts have other tokens alone.

    Args:
        vocabulary: of the tokenizer.
        text: writes the prompt.
    """

    def __init__(self, vocabulary: TokenizerVocabulary, text: HistoryText) -> None:
        self.vocabulary = vocabulary
        self.text = text

    def tokens(self, history: ItemIndices) -> Tensor:
        """Return the tokens of the prompt of a history, ``[P]``, int64."""
        return torch.tensor(self.vocabulary.tokenize(self.text.write(history)), dtype=torch.long)

    @cached_property
    def _item_lengths(self) -> np.ndarray:
        """Tokens of each item and a separator, ``[num_items]``, int64."""
        texts = [self.text.write_item(item) + self.text.separator for item in range(self.text.catalog.num_items)]
        return np.array([len(tokens) for tokens in self.vocabulary.tokenize_each(texts)])

    @property
    def longest_item(self) -> int:
        """Index of the item with the most tokens."""
        return int(self._item_lengths.argmax())

    def num_tokens(self, num_items: np.ndarray) -> np.ndarray:
        """Return how many tokens prompts with so many items have at most, the same shape, int64.

        Text that is tokenized in parts may have fewer tokens than in one, by a token at each border.
        """
        return len(self.tokens([])) + 1 + num_items * (int(self._item_lengths.max()) + 1)
