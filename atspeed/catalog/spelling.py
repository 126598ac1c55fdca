"""How a vocabulary writes the catalog's semantic IDs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from atspeed.catalog.collisions import group
from atspeed.catalog.item_catalog import ItemCatalog

ENDED = -1  # pads semantic IDs that are shorter than others


@dataclass(frozen=True, eq=False)
class Spelling:
    r"""The responses of a model, as token ids: a prefix that all share, the codes, and a suffix that ends them.

    ::

        response    <|sid_begin|>   <s_a_7> <s_b_2>   <|sid_end|> \n
        token ids   151669          151680  152001    151670      198
                    prefix          codes             suffix

    Attributes:
        prefix: token ids before the codes.
        suffix: token ids after them.
        code_tokens: token id of each of the catalog's ``words``, ``[words]``, int64; None where the vocabulary writes a
            code with several tokens, or with others beside other codes.
        sids: token ids of each item's codes and the suffix, ``[num_items, D]``, int64, padded with -1. No two semantic
            IDs have the same tokens, and none is the beginning of another.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    code_tokens: Tensor | None
    sids: Tensor

    @classmethod
    def of_single_tokens(
        cls, codes: Tensor, code_tokens: Tensor, prefix: tuple[int, ...] = (), suffix: tuple[int, ...] = ()
    ) -> "Spelling":
        """Return the spelling of a vocabulary that has a token for each code.

        Args:
            codes: of the items, ``[num_items, L]``, integers; see :class:`ItemCatalog`.
            code_tokens: token id of each code, ``[words]``, int64.
            prefix: see :class:`Spelling`.
            suffix: see :class:`Spelling`.
        """
        end = torch.tensor(suffix, dtype=torch.long).expand(len(codes), -1)
        return cls(prefix, suffix, code_tokens, torch.cat([code_tokens[codes], end], dim=1))

    @classmethod
    def of_several_tokens(
        cls,
        catalog: ItemCatalog,
        responses: Sequence[Sequence[int]],
        prefix: tuple[int, ...] = (),
        unknown_token: int | None = None,
    ) -> "Spelling":
        """Return the spelling of a vocabulary that writes a code with several tokens.

        The suffix is part of the responses, because its first token may have merged with the last code.

        Args:
            catalog: the items.
            responses: token ids of each item's codes and suffix.
            prefix: see :class:`Spelling`.
            unknown_token: what the vocabulary writes where it has no token, if there is such a token.

        Raises:
            ValueError: if two semantic IDs have the same tokens, one of them cannot be written, or they have different
                lengths and do not all end with one token that is nowhere else in them.
        """
        lengths = np.array([len(tokens) for tokens in responses])
        sids = np.full((len(responses), int(lengths.max())), ENDED, np.int64)
        sids[np.arange(sids.shape[1]) < lengths[:, None]] = [token for tokens in responses for token in tokens]
        _check_known(catalog, sids, unknown_token)
        _check_distinct(catalog, sids)
        if (lengths != lengths[0]).any():
            _check_end_token(catalog, sids, lengths)
        return cls(prefix, (), None, torch.from_numpy(sids))


def _check_known(catalog: ItemCatalog, sids: np.ndarray, unknown_token: int | None) -> None:
    empty = np.flatnonzero(sids[:, 0] == ENDED)
    unknown = np.flatnonzero((sids == unknown_token).any(1)) if unknown_token is not None else empty
    for items, problem in ((empty, "has no token"), (unknown, "has the unknown token")):
        if len(items):
            raise ValueError(
                f"the semantic ID {written_sid(catalog, int(items[0]))} {problem} in the vocabulary of the prompt's "
                "tokenizer; add the codes to it (the prompt's add_codes), or choose another tokenizer"
            )


def _check_distinct(catalog: ItemCatalog, sids: np.ndarray) -> None:
    by_codes, _ = group(catalog.codes.numpy())
    by_tokens, sizes = group(sids)
    first = np.full(len(sizes), len(sids))  # an item of each token sequence
    np.minimum.at(first, by_tokens, np.arange(len(sids)))
    differs = np.flatnonzero(by_codes[first[by_tokens]] != by_codes)
    if len(differs):
        item = int(differs[0])
        raise ValueError(
            f"the semantic IDs {written_sid(catalog, int(first[by_tokens[item]]))} and {written_sid(catalog, item)} "
            f"have the same tokens, {sids[item][sids[item] != ENDED].tolist()}; write the codes so that they differ, "
            "or add them to the tokenizer (the prompt's add_codes)"
        )


def _check_end_token(catalog: ItemCatalog, sids: np.ndarray, lengths: np.ndarray) -> None:
    """Check that all end with a token that is nowhere else, so that none is the beginning of another."""
    last = sids[np.arange(len(sids)), lengths - 1]
    end = last[0]
    wrong = np.flatnonzero((last != end) | ((sids == end).sum(1) > 1))
    if len(wrong):
        item = int(wrong[0])
        raise ValueError(
            f"semantic IDs have {lengths.min()} to {lengths.max()} tokens, so each must end with one token that ends "
            f"no code, but {written_sid(catalog, item)} has the tokens {sids[item, : lengths[item]].tolist()}; set the "
            "prompt's response_suffix to an end token, such as {eos}"
        )


def written_sid(catalog: ItemCatalog, item: int) -> str:
    """Return the codes of an item as a message shows them."""
    return repr("".join(catalog.sid(item)))
