"""A prompt that is a message in a chat."""

from pathlib import Path

from atspeed.catalog import ItemCatalog, TokenizerVocabulary
from atspeed.checks import require_at_least
from atspeed.prompts.history_text import HISTORY
from atspeed.prompts.prompt import Prompt
from atspeed.prompts.text_encoder import TextEncoder, Tokenize


class ChatPrompt(Prompt):
    """A user's message with the history, in the tokenizer's chat template; the assistant's answer is the next item.

    The template writes everything around the messages, the beginning token included. Otherwise as :class:`TextPrompt`.

    Args:
        tokenizer: folder with a Hugging Face tokenizer that has a chat template.
        message: the user's message, with ``{history}`` where the items go.
        system: the system's message before it; none if not given.
        thinking: what the template is told as ``enable_thinking``. For Qwen3, false begins the answer with an empty
            block of thoughts; most templates do not ask.
        item: how an item of the history is written; see :class:`TextPrompt`.
        separator: text between the items of the history.
        response_prefix: text before the codes of a response, which the model writes, too.
        response_suffix: text after them; ``{eos}`` is the tokenizer's end token.
        tokenize: ``together`` or ``apart``; see :class:`TextPrompt`.
        add_codes: whether codes that the tokenizer lacks are added to it as single tokens, for fine-tuning.
        max_tokens: most tokens in a prompt; not limited if not given.
    """

    def __init__(
        self,
        tokenizer: Path,
        message: str,
        system: str | None = None,
        thinking: bool = False,
        item: str = "{codes}",
        separator: str = ", ",
        response_prefix: str = "",
        response_suffix: str = "{eos}",
        tokenize: Tokenize = "together",
        add_codes: bool = False,
        max_tokens: int | None = None,
    ) -> None:
        require_at_least(1, prompt__max_tokens=max_tokens)
        self.tokenizer = Path(tokenizer)
        self.message = message
        self.system = system
        self.thinking = thinking
        self.item = item
        self.separator = separator
        self.response_prefix = response_prefix
        self.response_suffix = response_suffix
        self.tokenize: Tokenize = tokenize
        self.add_codes = add_codes
        self.max_tokens = max_tokens

    def encoder(self, catalog: ItemCatalog, max_items: int) -> TextEncoder:
        """Return the encoder for a catalog; see :meth:`Prompt.encoder`."""
        vocabulary = TokenizerVocabulary(self.tokenizer, catalog.words if self.add_codes else ())
        return TextEncoder(
            catalog,
            max_items,
            vocabulary=vocabulary,
            template=self._template(vocabulary),
            item=self.item,
            separator=self.separator,
            response_prefix=self.response_prefix,
            response_suffix=self.response_suffix,
            tokenize=self.tokenize,
            bos=False,
            max_tokens=self.max_tokens,
        )

    def _template(self, vocabulary: TokenizerVocabulary) -> str:
        """Return the text of the chat, with ``{history}`` where the items go."""
        if not vocabulary.tokenizer.chat_template:
            raise ValueError(f"the tokenizer in {self.tokenizer} has no chat template; use TextPrompt instead")
        if self.message.count(HISTORY) != 1:
            raise ValueError(f"the prompt's message {self.message!r} must say once where the items go, by {HISTORY}")
        messages = [{"role": "user", "content": self.message}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        text = str(
            vocabulary.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, enable_thinking=self.thinking
            )
        )
        if self.system is not None and self.system.strip() not in text:
            raise ValueError(f"the chat template in {self.tokenizer} leaves the prompt's system message out")
        return text
