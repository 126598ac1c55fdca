"""The trie of what a target writes, and the tokens in which a draft searches it."""

import torch
from torch import Tensor

from atspeed.catalog import ItemCatalog
from atspeed.decoding import ItemTrie
from atspeed.prompts import PromptEncoder


def response_trie(catalog: ItemCatalog, target: PromptEncoder) -> ItemTrie:
    """Return the trie of a catalog's semantic IDs as a target writes them.

    Args:
        catalog: the items.
        target: encodes the target's prompts.
    """
    spelling = target.spelling
    num_prefix = len(spelling.prefix)
    if spelling.code_tokens is None:
        return ItemTrie(spelling.sids, only_children_ride=True, num_prefix=num_prefix)
    suffix = torch.tensor(spelling.suffix, dtype=torch.long)
    closing = len(catalog.words) + torch.arange(len(suffix))  # after the codes
    sids = torch.cat([catalog.codes, closing.expand(catalog.num_items, -1)], dim=1)
    return ItemTrie(sids, torch.cat([spelling.code_tokens, suffix]), num_closing=len(suffix), num_prefix=num_prefix)


def draft_tokens(target: PromptEncoder, draft: PromptEncoder) -> Tensor | None:
    """Return the draft's token id of each code, ``[words]``, int64; None where it writes codes as the target does.

    Raises:
        ValueError: if the two write semantic IDs differently and one of them writes a code with several tokens.
    """
    if draft is target:
        return None
    ours, theirs = draft.spelling, target.spelling
    if ours.code_tokens is not None and theirs.code_tokens is not None:
        return ours.code_tokens
    if ours.sids.equal(theirs.sids):
        return None
    several = "draft" if ours.code_tokens is None else "target"
    raise ValueError(
        f"the {several}'s tokenizer writes a code with several tokens, so draft and target (data.draft_prompt and "
        "data.prompt), which do not write semantic IDs alike, cannot search the same token tree: give both the codes "
        "as single tokens (add_codes), or let the draft share the target's tokenizer"
    )
