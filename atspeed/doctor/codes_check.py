"""How the tokenizer writes the catalog: its codes, and each semantic ID."""

import numpy as np

from atspeed.catalog import ItemCatalog, Spelling, TokenizerVocabulary
from atspeed.catalog.spelling import ENDED
from atspeed.data import Dataset
from atspeed.decoding import ItemTrie
from atspeed.doctor.findings import Finding
from atspeed.preparation.trie_prediction import predict_trie
from atspeed.prompts import PromptEncoder

FINE_TUNE = (
    "make the codes single tokens: set data.prompt.add_codes to true, and fine-tune the model with embeddings for "
    "them, by python -m atspeed fit --config target.yaml with this data and prompt, --model.network Checkpoint, "
    "--model.network.path DIR and --model.network.new_tokens mean"
)


def check_codes(
    dataset: Dataset, encoder: PromptEncoder, num_beams: int, lacks_added: bool, spare_rows: int
) -> Finding:
    """Say which codes are single tokens, and what it costs if some are not.

    Args:
        dataset: the items, and who bought which.
        encoder: writes them.
        num_beams: beam width K.
        lacks_added: whether the prompt would add the codes (``add_codes``), but the model has no embeddings for them.
        spare_rows: rows of its embedding matrix that belong to no token.
    """
    catalog, spelling = dataset.catalog, encoder.spelling
    num_codes, num_levels = len(catalog.words), catalog.num_levels
    if spelling.code_tokens is not None:
        facts = [
            f"All {num_codes} are single tokens: {num_levels} for an item, and {len(spelling.suffix)} to close it."
        ]
        if num_added := getattr(encoder.vocabulary, "num_added", 0):
            facts.append(f"{num_added} of them are not in the prompt's tokenizer, but added to it (add_codes).")
        return Finding("codes", "good", facts)
    tokens = encoder.vocabulary.code_tokens(catalog.words)
    missing = [word for word, token in zip(catalog.words, tokens, strict=True) if token is None]
    facts = [f"{num_codes - len(missing)} of {num_codes} are single tokens."]
    changes = [FINE_TUNE]
    if missing:
        facts.append(f"{len(missing)} are spelled with several, {_spelled(encoder, missing[0])}.")
    else:
        facts.append("But in a response the tokenizer merges them with what is beside them.")
        changes = ["keep codes apart: add them to the tokenizer by add_tokens, and fine-tune the model with them"]
    facts.append(_cost(dataset, spelling, num_beams))
    if missing and spare_rows >= len(missing):
        facts.append(f"The embedding matrix has {spare_rows} rows more than the tokenizer has tokens.")
        changes.append(
            "or, if the model was trained with codes as tokens, for which its embedding matrix has the rows: save the "
            "tokenizer of that training in its folder"
        )
    if lacks_added:
        facts.append(
            "The prompt would add them (add_codes), but the model does not know them. Below, they are spelled."
        )
    return Finding("codes", "failed" if lacks_added else "warning", facts, changes)


def _spelled(encoder: PromptEncoder, word: str) -> str:
    """Return the tokens of a code, in words."""
    vocabulary = encoder.vocabulary
    if not isinstance(vocabulary, TokenizerVocabulary):
        return f"such as {word!r}"
    return f"such as {word!r} with {' '.join(vocabulary.tokens_written(vocabulary.tokenize(word)))}"


def _cost(dataset: Dataset, spelling: Spelling, num_beams: int) -> str:
    """Return what several tokens for a code cost, in words."""
    lengths = (spelling.sids != ENDED).sum(1)
    codes = ItemTrie(dataset.catalog.codes)
    predicted = predict_trie(codes, dataset.train.values, [num_beams])[0].target_calls.mean
    return (
        f"So an item takes {lengths.min()} to {lengths.max()} tokens, {lengths.double().mean():.1f} on average; cost, "
        f"below, says what that means. Single tokens would be {codes.num_levels}, with {codes.num_levels} target calls "
        f"by plain beam search and about {predicted:.1f} with TrieDrafter."
    )


def check_semantic_ids(catalog: ItemCatalog, encoder: PromptEncoder, trie: ItemTrie) -> Finding:
    """Check that each semantic ID is a leaf of the trie, and that its tokens read as its codes.

    Spaces do not count, because some tokenizers write their own.

    Args:
        catalog: the items.
        encoder: writes them.
        trie: of what it writes.
    """
    _, items = np.unique(catalog.codes.numpy(), axis=0, return_index=True)
    wrong = []
    for item in items.tolist():
        tokens = encoder.spelling.sids[item]
        text = encoder.vocabulary.text([*encoder.spelling.prefix, *tokens[tokens != ENDED].tolist()])
        codes = "".join(catalog.sid(item))
        if "".join(codes.split()) not in "".join(text.split()):
            wrong.append((codes, text))
    facts = [f"{len(items)} distinct semantic IDs of {catalog.num_items} items, {trie.num_leaves} leaves of the trie."]
    if not wrong and len(items) == trie.num_leaves:
        return Finding("semantic IDs", "good", [*facts, "Each is reached by tokens that read as its codes."])
    if wrong:
        codes, text = wrong[0]
        facts.append(f"{len(wrong)} have tokens that do not read as their codes, such as {codes!r}: {text!r}.")
    change = "the tokenizer changes the text of codes: add the codes to it as tokens that it does not normalize"
    return Finding("semantic IDs", "failed", facts, [change])
