"""How a tokenizer writes the responses: the codes of each item, and what surrounds them."""

from collections.abc import Sequence

import torch

from atspeed.catalog import ItemCatalog, Spelling, TokenizerVocabulary
from atspeed.prompts.bordered_tokens import is_bordered


def spell(
    catalog: ItemCatalog, vocabulary: TokenizerVocabulary, context: str, response_prefix: str, response_suffix: str
) -> Spelling:
    r"""Return how a tokenizer writes each item after a text.

    ::

        context ### Response:   response_prefix <|sid_begin|>   codes <s_a_7><s_b_2>   response_suffix <|sid_end|>\n

    Codes that are single tokens and cut a text in two wherever they stand are put together from their token ids.
    All other responses are tokenized, each together with what comes before it; the spelling's prefix is then as much of
    ``response_prefix`` as does not merge with a code.

    Args:
        catalog: the items.
        vocabulary: of the tokenizer.
        context: the text before the response, if both are tokenized together; else empty.
        response_prefix: text before the codes.
        response_suffix: text after them.

    Raises:
        ValueError: if a part of a response merges with the text before it, or the tokens of two semantic IDs cannot be
            told apart; see :meth:`Spelling.of_several_tokens`.
    """
    begin = vocabulary.tokenize(context)
    prefix = vocabulary.tokenize(context + response_prefix)[len(begin) :]
    code_tokens = vocabulary.code_tokens(catalog.words)
    bordered = is_bordered(vocabulary, catalog)
    texts = [
        f"{response_prefix}{''.join(catalog.sid(item))}{response_suffix}"
        for item in range(1 if bordered else catalog.num_items)
    ]
    tokenized = vocabulary.tokenize_each([context + text for text in texts])
    responses = [
        _continuation(vocabulary, begin, tokens, context, text) for tokens, text in zip(tokenized, texts, strict=True)
    ]
    prefix = prefix[: min(_num_shared(prefix, tokens) for tokens in responses)]
    responses = [tokens[len(prefix) :] for tokens in responses]
    suffix = responses[0][catalog.num_levels :] if bordered else _suffix(catalog, code_tokens, responses)
    if suffix is not None:
        return Spelling.of_single_tokens(catalog.codes, torch.tensor(code_tokens), tuple(prefix), tuple(suffix))
    return Spelling.of_several_tokens(catalog, responses, tuple(prefix), vocabulary.unknown_token)


def _continuation(
    vocabulary: TokenizerVocabulary, begin: list[int], tokens: list[int], before: str, text: str
) -> list[int]:
    """Return the tokens after those of the text before; raise if these are others once a text follows."""
    if tokens[: len(begin)] != begin:
        raise ValueError(
            f"the prompt's text {before[-20:]!r} has the tokens …{vocabulary.tokens_written(begin)[-3:]} alone, but "
            f"not when {text[:40]!r} follows: the tokenizer merges across the border. Set the prompt's tokenize to "
            "apart, or end the text before with something that does not merge, such as a newline"
        )
    return tokens[len(begin) :]


def _num_shared(tokens: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with in common."""
    pairs = enumerate(zip(tokens, others, strict=False))
    return next((index for index, (token, other) in pairs if token != other), min(len(tokens), len(others)))


def _suffix(
    catalog: ItemCatalog, code_tokens: Sequence[int | None], responses: Sequence[list[int]]
) -> list[int] | None:
    """Return the suffix that follows the codes of all items, if each code is its own token in all responses."""
    suffix = responses[0][catalog.num_levels :]
    length = catalog.num_levels + len(suffix)
    if None in code_tokens or any(len(tokens) != length for tokens in responses):
        return None
    expected = Spelling.of_single_tokens(catalog.codes, torch.tensor(code_tokens), suffix=tuple(suffix)).sids
    return suffix if expected.equal(torch.tensor(responses)) else None


def check_response(vocabulary: TokenizerVocabulary, text: str, tokens: Sequence[int], codes: str) -> None:
    """Refuse a response whose tokens depend on what comes before it.

    Args:
        vocabulary: of the tokenizer.
        text: prompt and response.
        tokens: of prompt and response, put together.
        codes: those of the response.

    Raises:
        ValueError: if the text has other tokens.
    """
    if vocabulary.tokenize(text) != list(tokens):
        raise ValueError(
            f"the response {codes!r} has other tokens after {text.rpartition(codes)[0][-40:]!r} than after other "
            "histories, because the tokenizer merges it with the prompt; set the prompt's tokenize to apart, or end "
            "its text with something that does not merge, such as a newline"
        )
