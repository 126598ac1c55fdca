"""A user's prompt and response as lines that a person reads."""

import textwrap
from collections.abc import Iterator

from atspeed.catalog.spelling import ENDED
from atspeed.data import splits
from atspeed.data.dataset import Dataset
from atspeed.prompts import Prompt, PromptEncoder


def prompt_lines(
    model: str, prompt: Prompt, encoder: PromptEncoder, dataset: Dataset, row: int, width: int
) -> Iterator[str]:
    """Yield lines on the prompt that a model gets for a user, and on its response, the user's first test item.

    Text is shown as it is; tokens with their ids are wrapped.

    Args:
        model: name of the model.
        prompt: its prompt.
        encoder: of that prompt, for the data set's catalog.
        dataset: the users.
        row: of the user in it.
        width: of the lines with tokens.
    """
    history, test = splits.test_history(dataset, row), dataset.test[row]
    num_kept = len(encoder.cut(history))
    tokens, vocabulary = encoder.encode(history).tolist(), encoder.vocabulary
    yield (
        f"{model}: {type(prompt).__name__}, {num_kept} of the user's {len(history)} items "
        f"({len(history) - num_kept} oldest left out), {len(tokens)} tokens of at most {encoder.max_prompt_tokens}"
    )
    yield from _both(vocabulary.text(tokens), tokens, encoder, width)
    item = int(test[0]) if len(test) else 0
    response = encoder.spelling.sids[item]
    written = response[response != ENDED].tolist()
    yield f"\n{model}: response for item {dataset.catalog.names[item]!r}, {len(written)} tokens after the prompt"
    if encoder.spelling.prefix:
        start = vocabulary.text(encoder.spelling.prefix)
        yield f"(the prompt's last {len(encoder.spelling.prefix)} tokens, {start!r}, begin every response)"
    yield from _both(vocabulary.text(written), written, encoder, width)


def _both(text: str, tokens: list[int], encoder: PromptEncoder, width: int) -> Iterator[str]:
    """Yield a text between lines, and its tokens with their ids."""
    yield from ("-" * width, text, "-" * width)
    words = [
        f"{repr(word)[1:-1]}\u00a0{token}"
        for word, token in zip(encoder.vocabulary.tokens_written(tokens), tokens, strict=True)
    ]
    yield from textwrap.wrap("  ".join(words), width, break_long_words=False, break_on_hyphens=False)
