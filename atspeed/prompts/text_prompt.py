"""A prompt that is a text."""

from pathlib import Path

from atspeed.catalog import ItemCatalog, TokenizerVocabulary
from atspeed.checks import require_at_least
from atspeed.prompts.prompt import Prompt
from atspeed.prompts.text_encoder import TextEncoder, Tokenize


class TextPrompt(Prompt):
    r"""A text around the history, for a model with a tokenizer of its own; the next item is the response to it.

    Training learns the response only. A history that does not fit loses its oldest items; the text around it stays.

    ::

        template         The user bought {history}. What next?\n### Response:
        item             {codes}                         or, for example, {title} or {title} ({codes})
        prompt           The user bought <a_1><b_2>, <a_7><b_3>. What next?\n### Response:
        response_suffix  \n{eos}
        response         <a_7><b_2>\n</s>

    Args:
        tokenizer: folder with a Hugging Face tokenizer, such as that of the model.
        template: the prompt, with ``{history}`` where the items go; it ends where the response begins.
        item: how an item of the history is written: ``{codes}``, its codes one after the other, or ``{title}``, its
            title in the data, or both, with text around them.
        separator: text between the items of the history.
        response_prefix: text before the codes of a response, which the model writes, too.
        response_suffix: text after them; ``{eos}`` is the tokenizer's end token.
        tokenize: ``together``: prompt and response are tokenized as one text; ``apart``: each by itself, as if the
            response began a text.
        add_codes: whether codes that the tokenizer lacks are added to it as single tokens, for fine-tuning; otherwise
            it spells them with several.
        bos: whether the prompt begins with the tokenizer's beginning token; if not given, where the tokenizer adds it
            to a text of its own accord.
        max_tokens: most tokens in a prompt; not limited if not given.
    """

    def __init__(
        self,
        tokenizer: Path,
        template: str,
        item: str = "{codes}",
        separator: str = ", ",
        response_prefix: str = "",
        response_suffix: str = "{eos}",
        tokenize: Tokenize = "together",
        add_codes: bool = False,
        bos: bool | None = None,
        max_tokens: int | None = None,
    ) -> None:
        require_at_least(1, prompt__max_tokens=max_tokens)
        self.tokenizer = Path(tokenizer)
        self.template = template
        self.item = item
        self.separator = separator
        self.response_prefix = response_prefix
        self.response_suffix = response_suffix
        self.tokenize: Tokenize = tokenize
        self.add_codes = add_codes
        self.bos = bos
        self.max_tokens = max_tokens

    def encoder(self, catalog: ItemCatalog, max_items: int) -> TextEncoder:
        """Return the encoder for a catalog; see :meth:`Prompt.encoder`."""
        vocabulary = TokenizerVocabulary(self.tokenizer, catalog.words if self.add_codes else ())
        return TextEncoder(
            catalog,
            max_items,
            vocabulary=vocabulary,
            template=self.template,
            item=self.item,
            separator=self.separator,
            response_prefix=self.response_prefix,
            response_suffix=self.response_suffix,
            tokenize=self.tokenize,
            bos=vocabulary.adds_bos if self.bos is None else self.bos,
            max_tokens=self.max_tokens,
        )
