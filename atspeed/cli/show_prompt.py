"""The command that prints a user's prompt as the models see it."""

import textwrap
from collections.abc import Iterator
from typing import Any

from atspeed.catalog.spelling import ENDED
from atspeed.data import RecommendationData
from atspeed.prompts.prompt import PromptEncoder

WIDTH = 120


class PromptDisplay:
    """Prints the prompt of a user for the target, and for the draft where that reads another one.

    The history is what is known before the user's test items, of which the first is the response.

    Args:
        user: name of the user in the data; the first one if not given.
    """

    def __init__(self, user: str | None = None) -> None:
        self.user = user

    def run(self, data: RecommendationData) -> None:
        """Print the prompts.

        Raises:
            ValueError: if the data does not have the user.
        """
        data.setup()
        row = self._row(data)
        print(f"user {data.dataset.users[row]!r}")
        print("\n".join(_describe("target", data.prompt, data.encoder, data, row)))
        if data.draft_encoder is not data.encoder:
            print("\n".join(_describe("draft", data.draft_prompt, data.draft_encoder, data, row)))

    def _row(self, data: RecommendationData) -> int:
        users = data.dataset.users
        if self.user is None:
            return 0
        for row, name in enumerate(users):
            if name == self.user:
                return row
        raise ValueError(
            f"user is {self.user!r}, whom the data does not have; it has {len(users)}, such as {users[0]!r}"
        )


def _describe(model: str, prompt: Any, encoder: PromptEncoder, data: RecommendationData, row: int) -> Iterator[str]:
    """Yield lines on one model's prompt and response."""
    history, test = data.test_history(row), data.dataset.test[row]
    num_kept = len(encoder.cut(history))
    tokens, vocabulary = encoder.encode(history).tolist(), encoder.vocabulary
    yield ""
    yield (
        f"{model}: {type(prompt).__name__}, {num_kept} of the user's {len(history)} items "
        f"({len(history) - num_kept} oldest left out), {len(tokens)} tokens of at most {encoder.max_prompt_tokens}"
    )
    yield from _both(vocabulary.text(tokens), tokens, encoder)
    item = int(test[0]) if len(test) else 0
    response = encoder.spelling.sids[item]
    written = response[response != ENDED].tolist()
    yield f"\n{model}: response for item {data.catalog.names[item]!r}, {len(written)} tokens after the prompt"
    if encoder.spelling.prefix:
        start = vocabulary.text(encoder.spelling.prefix)
        yield f"(the prompt's last {len(encoder.spelling.prefix)} tokens, {start!r}, begin every response)"
    yield from _both(vocabulary.text(written), written, encoder)


def _both(text: str, tokens: list[int], encoder: PromptEncoder) -> Iterator[str]:
    """Yield a text between lines, and its tokens with their ids."""
    yield from ("-" * WIDTH, text, "-" * WIDTH)
    words = [
        f"{repr(word)[1:-1]}\u00a0{token}"
        for word, token in zip(encoder.vocabulary.tokens_written(tokens), tokens, strict=True)
    ]
    yield from textwrap.wrap("  ".join(words), WIDTH, break_long_words=False, break_on_hyphens=False)
