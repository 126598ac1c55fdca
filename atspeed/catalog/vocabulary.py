"""What every vocabulary is: the tokens that a model reads and writes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path


class Vocabulary(ABC):
    """The token ids of a model: the compact ones of a catalog, or those of a tokenizer.

    Attributes:
        pad_token: token id that pads a batch; what it is does not matter, because padding is masked.
        bos_token: token id that a sequence starts with, if there is one.
        eos_token: token id that ends a response, if there is one.
    """

    pad_token: int
    bos_token: int | None
    eos_token: int | None

    @abstractmethod
    def __len__(self) -> int:
        """Return how many tokens a model has to score; one with a larger, padded embedding matrix will do."""

    @abstractmethod
    def code_tokens(self, words: Sequence[str]) -> list[int | None]:
        """Return the token id of each code as it is written; None for what is not a single token."""

    @abstractmethod
    def tokens_written(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as it is written in the vocabulary."""

    @abstractmethod
    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens as one text, special tokens included."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the vocabulary as a Hugging Face tokenizer, beside a model."""

    @abstractmethod
    def check(self, folder: Path) -> int:
        """Return how many of the last tokens the model in a folder lacks.

        Raises:
            ValueError: if the model has another vocabulary, saying how they differ, and what to do.
        """
