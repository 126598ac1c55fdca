"""The compact vocabulary: three special tokens and the catalog's codes."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from atspeed.catalog.vocabulary import Vocabulary

PAD, BOS, SEP = 0, 1, 2
SPECIAL_TOKENS = ("<pad>", "<bos>", "<sep>")


class CompactVocabulary(Vocabulary):
    """Token ids of the special tokens (0, 1, 2) and of the catalog's codes (3 and up, in the given order).

    :meth:`save` writes it beside an exported model as an ordinary Hugging Face tokenizer. So ``AutoTokenizer`` reads a
    prompt such as ``<bos> <a_1> <b_7> <sep>``, and a model is never run on another catalog's codes.

    Args:
        codes: the codes as they are written, each once.

    Attributes:
        words: special tokens and codes by token id.

    Raises:
        ValueError: if a code repeats or equals a special token.

    >>> vocabulary = CompactVocabulary(["<a_0>", "<b_0>"])
    >>> len(vocabulary), vocabulary.code_tokens(["<b_0>"])
    (5, [4])
    """

    pad_token, bos_token, eos_token = PAD, BOS, None

    def __init__(self, codes: Sequence[str]) -> None:
        self.words = (*SPECIAL_TOKENS, *codes)
        if len(set(self.words)) < len(self.words):
            raise ValueError(f"the codes repeat or collide with the special tokens {SPECIAL_TOKENS}")

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CompactVocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.words)}

    def code_tokens(self, words: Sequence[str]) -> list[int | None]:
        """Return the token ids of codes; see :meth:`Vocabulary.code_tokens`."""
        return [self._ids.get(word) for word in words]

    def tokens_written(self, tokens: Sequence[int]) -> list[str]:
        """Return the words of tokens; see :meth:`Vocabulary.tokens_written`."""
        return [self.words[token] for token in tokens]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the words of tokens, with spaces; see :meth:`Vocabulary.text`."""
        return " ".join(self.tokens_written(tokens))

    def save(self, folder: Path) -> None:
        """Write the vocabulary; see :meth:`Vocabulary.save`."""
        tokenizer = Tokenizer(WordLevel(self._ids, unk_token=SPECIAL_TOKENS[PAD]))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token=SPECIAL_TOKENS[PAD],
            bos_token=SPECIAL_TOKENS[BOS],
            sep_token=SPECIAL_TOKENS[SEP],
        ).save_pretrained(folder)

    def check(self, folder: Path) -> int:
        """Refuse a model of another vocabulary; see :meth:`Vocabulary.check`."""
        found = CompactVocabulary.load(folder)
        if found != self:
            raise ValueError(
                f"the vocabulary of {folder} ({len(found)} tokens) is not the catalog's ({len(self)} tokens): "
                "the model was exported for another catalog. Choose the run folder of this catalog, or set "
                "new_vocabulary to keep the body of the model and train fresh embeddings"
            )
        return 0

    @classmethod
    def load(cls, folder: Path) -> "CompactVocabulary":
        """Read what :meth:`save` wrote; raise ``ValueError`` if the folder has another tokenizer or none."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ValueError(f"{folder} has no tokenizer.json, so its vocabulary is not the catalog's")
        ids = Tokenizer.from_file(str(file)).get_vocab()
        words = sorted(ids, key=ids.__getitem__)
        if tuple(words[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS:
            raise ValueError(f"{file} does not start with {SPECIAL_TOKENS}, so its vocabulary is not the catalog's")
        return cls(words[len(SPECIAL_TOKENS) :])
