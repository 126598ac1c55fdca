"""The vocabulary of a Hugging Face tokenizer."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from atspeed.catalog.vocabulary import Vocabulary

MAX_NAMED = 3  # differences that a message names
SAFE_NORMALIZERS = ("NFC", "NoneType")  # these leave a code as it is, and add nothing before or after it


class TokenizerVocabulary(Vocabulary):
    """The token ids of a tokenizer, and of the catalog's codes that are added to it.

    Codes that the tokenizer has are used as they are. Those that are added get the next free ids in the given order,
    so that the same folder and catalog always give the same ids; a tokenizer that :meth:`save` wrote has them all.

    Args:
        folder: with the tokenizer's files; code in it is never run.
        new_codes: codes that are to be single tokens, each once; those that the tokenizer lacks are added.

    Attributes:
        tokenizer: the tokenizer, with the codes.
        pad_token: its padding token; where it has none, the end token, the beginning token or 0.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if the folder has no tokenizer that can be read.
    """

    def __init__(self, folder: Path, new_codes: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self.tokenizer = _load(self.folder)
        known = self.tokenizer.get_vocab()
        # matched in the text as it is written, before the tokenizer normalizes it or prepends spaces
        new = [AddedToken(word, normalized=False) for word in new_codes if word not in known]
        self.num_added: int = self.tokenizer.add_tokens(new) if new else 0
        self.bos_token: int | None = self.tokenizer.bos_token_id
        self.eos_token: int | None = self.tokenizer.eos_token_id
        candidates = (self.tokenizer.pad_token_id, self.eos_token, self.bos_token, 0)
        self.pad_token: int = next(token for token in candidates if token is not None)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    @cached_property
    def _num_tokens(self) -> int:
        return max(self._ids.values()) + 1  # there may be gaps

    def __len__(self) -> int:
        return self._num_tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenizerVocabulary) and self._ids == other._ids

    def __hash__(self) -> int:
        return hash(len(self))

    @property
    def unknown_token(self) -> int | None:
        """Token id of what the tokenizer cannot write, if it has one of its own."""
        unknown = self.tokenizer.unk_token_id
        return None if unknown in (self.eos_token, self.bos_token) else unknown  # GPT-2 has one token for all three

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer begins a text with ``bos_token`` of its own accord."""
        begin = self.tokenizer("x").input_ids[:1]
        return self.bos_token is not None and begin == [self.bos_token]

    def code_tokens(self, words: Sequence[str]) -> list[int | None]:
        """Return the token ids of codes; see :meth:`Vocabulary.code_tokens`."""
        return [self._ids.get(word) for word in words]

    @cached_property
    def borders(self) -> frozenset[str]:
        """Tokens that cut a text in two wherever they stand, so that both parts are tokenized as if they were alone.

        They are the tokens that were added to the tokenizer and are matched in the text as it is written. Others may
        take spaces from their neighbours, or appear where normalization makes them.
        """
        if not self.tokenizer.is_fast:
            return frozenset()
        normalizer = type(self.tokenizer.backend_tokenizer.normalizer).__name__
        return frozenset(
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if not (token.lstrip or token.rstrip or token.single_word)
            and (not token.normalized or normalizer in SAFE_NORMALIZERS)
        )

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, without any that the tokenizer adds to it."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def tokenize_each(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text; see :meth:`tokenize`."""
        return self.tokenizer(texts, add_special_tokens=False).input_ids

    def tokens_written(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as the tokenizer's files write it; see :meth:`Vocabulary.tokens_written`."""
        return [str(word) for word in self.tokenizer.convert_ids_to_tokens(list(tokens))]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens; see :meth:`Vocabulary.text`."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def save(self, folder: Path) -> None:
        """Write the tokenizer; see :meth:`Vocabulary.save`."""
        self.tokenizer.save_pretrained(folder)

    def check(self, folder: Path) -> int:
        """Refuse a model with another tokenizer; see :meth:`Vocabulary.check`."""
        found = _load(Path(folder)).get_vocab()
        differing = sorted(
            (word for word in found.keys() | self._ids.keys() if found.get(word) != self._ids.get(word)),
            key=lambda word: (self._ids.get(word, len(self)), word),
        )
        last = max(found.values())
        if all(self._ids.get(word, 0) > last for word in differing):
            return len(self) - 1 - last
        named = [
            f"{word!r} is {self._ids.get(word)} here and {found.get(word)} there" for word in differing[:MAX_NAMED]
        ]
        added = f" with {self.num_added} added codes" if self.num_added else ""
        raise ValueError(
            f"the tokenizer in {folder} ({len(found)} tokens) is not that of the prompt, {self.folder}{added} "
            f"({len(self._ids)} tokens); {len(differing)} tokens differ: {'; '.join(named)}. Set the prompt's "
            "tokenizer to the folder of the model, or choose the model of this catalog and tokenizer"
        )


def _load(folder: Path) -> PreTrainedTokenizerBase:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with a tokenizer; name a local folder")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise ValueError(
            f"{folder} has no tokenizer (tokenizer.json, tokenizer_config.json or tokenizer.model); save the one that "
            "the model was trained with there"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a broken file raises whatever its reader raises
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {reason}") from error
