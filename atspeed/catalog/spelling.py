"""How a vocabulary writes the catalog's semantic IDs."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
            code with several tokens.
        sids: token ids of each item's codes and the suffix, ``[num_items, D]``, int64, padded with -1.
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
