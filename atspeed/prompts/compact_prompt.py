"""The prompt of the compact vocabulary: codes and separators."""

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import CompactVocabulary, ItemCatalog, Spelling
from atspeed.catalog.compact_vocabulary import BOS, SEP
from atspeed.catalog.item_catalog import ItemIndices
from atspeed.prompts.prompt import IGNORED, Prompt, PromptEncoder


class CompactPrompt(Prompt):
    """``<bos> codes <sep> codes <sep> …``: a separator ends every item, and the next item follows it.

    So the model predicts the next item at the last separator of a prompt, as it does at every separator in training.
    Its vocabulary is the catalog's codes and three special tokens; there is no tokenizer.
    """

    def encoder(self, catalog: ItemCatalog, max_items: int) -> "CompactEncoder":
        """Return the encoder for a catalog; see :meth:`Prompt.encoder`."""
        return CompactEncoder(catalog, max_items)


class CompactEncoder(PromptEncoder):
    """Encodes histories for :class:`CompactPrompt`.

    Args:
        catalog: the items.
        max_items: histories are cut to their last ``max_items`` items.
    """

    learns_history = True

    def __init__(self, catalog: ItemCatalog, max_items: int) -> None:
        self.vocabulary = CompactVocabulary(catalog.words)
        self.max_items = max_items
        code_tokens = torch.arange(SEP + 1, len(self.vocabulary))
        self.spelling = Spelling.of_single_tokens(catalog.codes, code_tokens)

    def _codes(self, items: ItemIndices) -> Tensor:
        return self.spelling.sids[torch.tensor(items, dtype=torch.long)]  # [items, L]

    def encode(self, history: ItemIndices) -> Tensor:
        """Return the prompt of a history; see :meth:`PromptEncoder.encode`."""
        closed = torch.nn.functional.pad(self._codes(self.cut(history)), (0, 1), value=SEP)  # [items, L + 1]
        return torch.nn.functional.pad(closed.flatten(), (1, 0), value=BOS)

    def encode_labelled(self, items: ItemIndices, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and labels; see :meth:`PromptEncoder.encode_labelled`.

        The codes of all items are labels (with ``last_only``, those of the last item). Special tokens are not, because
        a SID of fixed length does not need an end token.
        """
        history, last = items[-self.max_items - 1 : -1], items[-1:]
        response = self._codes(last).flatten()
        tokens = torch.cat([self.encode(history), response])
        labels = tokens.masked_fill(tokens <= SEP, IGNORED)
        if last_only:
            labels[: -len(response)] = IGNORED
        return tokens, labels

    def num_tokens(self, num_items: np.ndarray) -> np.ndarray:
        """Return the number of tokens of items, the separator of the last one included."""
        return 1 + np.minimum(num_items, self.max_items + 1) * (self.spelling.sids.shape[1] + 1)

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt."""
        return 1 + self.max_items * (self.spelling.sids.shape[1] + 1)
