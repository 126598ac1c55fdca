import re

import pytest
import torch

from atspeed.catalog import ItemCatalog, Spelling

CATALOG = ItemCatalog({"x": ["<a_1>", "<b_1>"], "y": ["<a_1>", "<b_12>"], "z": ["<a_1>", "<b_1>"]})


def test_codes_of_several_tokens_are_padded_and_items_may_share_them() -> None:
    spelling = Spelling.of_several_tokens(CATALOG, [[5, 1, 9], [5, 1, 2, 9], [5, 1, 9]], prefix=(7,))
    assert spelling.sids.equal(torch.tensor([[5, 1, 9, -1], [5, 1, 2, 9], [5, 1, 9, -1]]))
    assert (spelling.prefix, spelling.suffix, spelling.code_tokens) == ((7,), (), None)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[5, 1], [5, 1], [5, 1]], "'<a_1><b_1>' and '<a_1><b_12>' have the same tokens, [5, 1]"),
        ([[5, 1], [5, 1, 2], [5, 1]], "have 2 to 3 tokens, so each must end with one token that ends no code"),
        ([[5, 9], [9, 1, 9], [5, 9]], "but '<a_1><b_12>' has the tokens [9, 1, 9]; set the prompt's response_suffix"),
        ([[5, 1], [5, 0], [5, 1]], "'<a_1><b_12>' has the unknown token"),
        ([[5, 1], [], [5, 1]], "'<a_1><b_12>' has no token"),
    ],
)
def test_tokens_that_cannot_be_told_apart_are_refused(tokens: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Spelling.of_several_tokens(CATALOG, tokens, unknown_token=0)


def test_several_tokens_of_one_length_need_no_end_token() -> None:
    assert Spelling.of_several_tokens(CATALOG, [[5, 1], [5, 2], [5, 1]]).sids.tolist() == [[5, 1], [5, 2], [5, 1]]
