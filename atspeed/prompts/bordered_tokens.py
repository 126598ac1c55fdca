"""Prompts put together from the tokens of their parts."""

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog, TokenizerVocabulary
from atspeed.catalog.item_catalog import ItemIndices
from atspeed.prompts.history_text import HistoryText


class BorderedTokens:
    r"""Prompts whose items begin and end with tokens that cut the text, so that parts are tokenized once for all.

    ::

        The user bought <a_1><b_2>, <a_7><b_2>, <a_1><b_5>.\n
        head            item      separator           tail

    Args:
        catalog: the items.
        vocabulary: all codes are among its borders.
        text: writes the prompt, whose items are codes and text around them.

    Attributes:
        head: token ids of a part, as the others, ``[…]``, int64; ``empty`` is the prompt without items.
        items: token ids of each item, ``[num_items, D]``, int64.
        longest_item: index of an item with the most tokens; all have as many.
    """

    longest_item = 0

    def __init__(self, catalog: ItemCatalog, vocabulary: TokenizerVocabulary, text: HistoryText) -> None:
        def between(before: str, part: str, after: str) -> Tensor:
            """Return the tokens of a part between two borders, or at an end of the prompt."""
            tokens = vocabulary.tokenize(before + part + after)
            return torch.tensor(tokens[bool(before) : len(tokens) - bool(after)], dtype=torch.long)

        border = catalog.words[0]
        codes = torch.tensor(vocabulary.code_tokens(catalog.words))[catalog.codes]  # [num_items, L]
        before, after = (between(border, part, border).expand(len(codes), -1) for part in text.around_codes or ("", ""))
        self.items = torch.cat([before, codes, after], dim=1)
        self.separator = between(border, text.separator, border)
        self.head = between("", text.head, border)
        self.tail = between(border, text.tail, "")
        self.empty = between("", text.write([]), "")

    def tokens(self, history: ItemIndices) -> Tensor:
        """Return the tokens of the prompt of a history, ``[P]``, int64."""
        if not len(history):
            return self.empty
        items = self.items[torch.as_tensor(history, dtype=torch.long)]  # [items, D]
        separated = torch.cat([items, self.separator.expand(len(items), -1)], dim=1).flatten()
        return torch.cat([self.head, separated[: len(separated) - len(self.separator)], self.tail])

    def num_tokens(self, num_items: np.ndarray) -> np.ndarray:
        """Return how many tokens prompts with so many items have, the same shape, int64."""
        filled = len(self.head) + num_items * (self.items.shape[1] + len(self.separator)) - len(self.separator)
        return np.where(num_items > 0, filled + len(self.tail), len(self.empty))


def bordered_tokens(catalog: ItemCatalog, vocabulary: TokenizerVocabulary, text: HistoryText) -> BorderedTokens | None:
    """Return the parts of a prompt, if they have the tokens that its text has; None if they may not."""
    if text.around_codes is None or not is_bordered(vocabulary, catalog, *text.around_codes):
        return None
    parts = BorderedTokens(catalog, vocabulary, text)
    last = catalog.num_items - 1
    histories: tuple[list[int], ...] = (
        [],
        [0],
        [last, 0, last],
    )  # a last look: a token may be longer than the border that it begins with
    same = (parts.tokens(history).tolist() == vocabulary.tokenize(text.write(history)) for history in histories)
    return parts if all(same) else None


def is_bordered(vocabulary: TokenizerVocabulary, catalog: ItemCatalog, before: str = "", after: str = "") -> bool:
    """Return whether all codes, with text before and after them, begin and end with a token that cuts a text."""
    borders = vocabulary.borders
    return (
        all(word in borders for word in catalog.words)
        and (not before or any(before.startswith(border) for border in borders))
        and (not after or any(after.endswith(border) for border in borders))
    )
