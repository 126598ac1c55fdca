"""Encodes histories as a text around them, and items as the response to it."""

from bisect import bisect_left
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog, TokenizerVocabulary
from atspeed.catalog.item_catalog import ItemIndices
from atspeed.catalog.spelling import ENDED
from atspeed.prompts.bordered_tokens import BorderedTokens, bordered_tokens, is_bordered
from atspeed.prompts.history_text import HistoryText
from atspeed.prompts.prompt import IGNORED, PromptEncoder
from atspeed.prompts.response_spelling import check_response, spell
from atspeed.prompts.text_tokens import TextTokens

EOS = "{eos}"
Tokenize = Literal["together", "apart"]


class TextEncoder(PromptEncoder):
    """Encodes histories for :class:`TextPrompt` and :class:`ChatPrompt`, whose settings it takes.

    A prompt whose items are bordered by tokens that cut a text (codes that were added to the tokenizer) is put
    together from the tokens of its parts; others are tokenized as a text.

    Args:
        catalog: the items.
        max_items: histories are cut to their last ``max_items`` items.
        vocabulary: of the tokenizer, with the codes that the settings add to it.
        template: text with ``{history}`` that ends where the response begins.
        item: how an item is written; see :class:`HistoryText`.
        separator: text between items.
        response_prefix: text before the codes of a response.
        response_suffix: text after them; ``{eos}`` is the tokenizer's end token.
        tokenize: see :class:`TextPrompt`.
        bos: whether the prompt begins with the vocabulary's ``bos_token``.
        max_tokens: most tokens in a prompt, if they are limited.

    Raises:
        ValueError: if the settings cannot serve the catalog, or a prompt of one item is longer than ``max_tokens``.
    """

    vocabulary: TokenizerVocabulary

    def __init__(
        self,
        catalog: ItemCatalog,
        max_items: int,
        *,
        vocabulary: TokenizerVocabulary,
        template: str,
        item: str,
        separator: str,
        response_prefix: str,
        response_suffix: str,
        tokenize: Tokenize,
        bos: bool,
        max_tokens: int | None,
    ) -> None:
        self.catalog = catalog
        self.max_items = max_items
        self.vocabulary = vocabulary
        self.max_tokens = max_tokens
        self.text = HistoryText(catalog, template, item, separator)
        self.response_prefix = response_prefix
        self.response_suffix = _with_end_token(response_suffix, vocabulary)
        self._bos = _bos_tokens(bos, vocabulary)
        context = self.text.write([0]) if tokenize == "together" else ""
        self.spelling = spell(catalog, vocabulary, context, response_prefix, self.response_suffix)
        self._prefix = torch.tensor(self.spelling.prefix, dtype=torch.long)
        self._parts: BorderedTokens | TextTokens
        self._parts = bordered_tokens(catalog, vocabulary, self.text) or TextTokens(vocabulary, self.text)
        # whether the tokenizer could merge the response with the prompt
        self._may_merge = tokenize == "together" and not is_bordered(vocabulary, catalog, response_prefix)
        if max_tokens is not None:
            self.encode([self._parts.longest_item])
        if self._may_merge:
            last = catalog.num_items - 1
            for items in ([last], [last // 2, last], [last, 0, last // 3, last]):
                self.encode_labelled(items)

    def _prompt_tokens(self, history: ItemIndices) -> Tensor:
        return torch.cat([self._bos, self._parts.tokens(history), self._prefix])

    def cut(self, history: ItemIndices) -> ItemIndices:
        """Return the last items of a history that fit; see :meth:`PromptEncoder.cut`.

        Raises:
            ValueError: if the last item alone does not fit.
        """
        history = super().cut(history)
        limit = self.max_tokens
        if limit is None or self._num_prompt_tokens(np.array(len(history))) <= limit:  # at most so many
            return history

        def fits(dropped: int) -> bool:
            return len(self._prompt_tokens(history[dropped:])) <= limit

        dropped = bisect_left(range(len(history)), True, key=fits)
        if dropped == len(history) and not (len(history) == 0 and fits(0)):
            self._refuse(history[-1:], limit)
        return history[dropped:]

    def _refuse(self, history: ItemIndices, limit: int) -> NoReturn:
        num_tokens = len(self._prompt_tokens(history))
        what = f"the one item {self.catalog.names[int(history[0])]!r}" if len(history) else "no item"
        raise ValueError(
            f"the prompt with {what} has {num_tokens} tokens, {num_tokens - limit} more than its max_tokens, {limit}; "
            "raise that, or shorten the text of the prompt or of its items"
        )

    def encode(self, history: ItemIndices) -> Tensor:
        """Return the prompt of a history; see :meth:`PromptEncoder.encode`.

        Raises:
            ValueError: if the prompt of the last item alone has more than ``max_tokens``.
        """
        return self._prompt_tokens(self.cut(history))

    def encode_labelled(self, items: ItemIndices, last_only: bool = False) -> tuple[Tensor, Tensor]:
        """Return tokens and labels; see :meth:`PromptEncoder.encode_labelled`.

        The labels are the response: prefix, codes and suffix of the last item.

        Raises:
            ValueError: as :meth:`encode`, or if the response has other tokens after this history than after others.
        """
        history, item = self.cut(items[:-1]), int(items[-1])
        prompt, response = self._prompt_tokens(history), self.spelling.sids[item]
        tokens = torch.cat([prompt, response[response != ENDED]])
        if self._may_merge:
            codes = "".join(self.catalog.sid(item))
            text = self.text.write(history) + self.response_prefix + codes + self.response_suffix
            check_response(self.vocabulary, text, tokens[len(self._bos) :].tolist(), codes)
        labels = tokens.clone()
        labels[: len(prompt) - len(self._prefix)] = IGNORED
        return tokens, labels

    def _num_prompt_tokens(self, num_items: np.ndarray) -> np.ndarray:
        return len(self._bos) + self._parts.num_tokens(num_items) + len(self._prefix)

    def num_tokens(self, num_items: np.ndarray) -> np.ndarray:
        """Return the number of tokens of items at most, the last one as the response."""
        prompt = self._num_prompt_tokens(np.minimum(np.maximum(num_items - 1, 0), self.max_items))
        limit = np.iinfo(np.int64).max if self.max_tokens is None else self.max_tokens
        return np.minimum(prompt, limit) + self.spelling.sids.shape[1]

    @property
    def max_prompt_tokens(self) -> int:
        """Tokens of the longest prompt at most."""
        return int(self.num_tokens(np.array(self.max_items + 1))) - self.spelling.sids.shape[1]


def _with_end_token(suffix: str, vocabulary: TokenizerVocabulary) -> str:
    if EOS in suffix and vocabulary.eos_token is None:
        raise ValueError(
            f"the tokenizer in {vocabulary.folder} has no end token, which the prompt's response_suffix {suffix!r} "
            f"asks for; write another one instead of {EOS}"
        )
    return suffix.replace(EOS, str(vocabulary.tokenizer.eos_token))


def _bos_tokens(bos: bool, vocabulary: TokenizerVocabulary) -> Tensor:
    if bos and vocabulary.bos_token is None:
        raise ValueError(f"the tokenizer in {vocabulary.folder} has no beginning token; set the prompt's bos to false")
    return torch.tensor([vocabulary.bos_token] if bos else [], dtype=torch.long)
