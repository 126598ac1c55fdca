import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atspeed.catalog import ItemCatalog
from atspeed.decoding.trie import ItemTrie
from atspeed.prompts import TextPrompt
from atspeed.prompts.prompt import IGNORED
from atspeed.prompts.text_encoder import TextEncoder
from tests.prompts.tiny_tokenizers import CATALOG, FAMILIES, save

LCREC = "Below is a task.\n\n### Instruction:\nThe user has interacted with items {history} in order.\n\n### Response:"
MINIONEREC = "### User Input: \nItems {history}. What next?\n\n### Response:\n"
HISTORIES = ([], [0], [1, 2], [3, 0, 4, 4, 2, 1], [2] * 9)
WORDS = ("<|sid_begin|>", "<|sid_end|>", *CATALOG.words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that returns a folder with a tokenizer; equal ones are made once."""
    made: dict[tuple, Path] = {}

    def make(family: str, bos: bool = False, codes: tuple[str, ...] = (), plain_codes: bool = False) -> Path:
        key = (family, bos, codes, plain_codes)
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp(family), FAMILIES[family](), bos, codes, plain_codes)
        return made[key]

    return make


def sid(item: int) -> str:
    return "".join(CATALOG.sid(item))


def response(encoder: TextEncoder, item: int) -> list[int]:
    tokens = encoder.spelling.sids[item]
    return [*encoder.spelling.prefix, *tokens[tokens >= 0].tolist()]


SETTINGS: dict[str, dict[str, Any]] = {
    "byte_level": {"template": LCREC},
    "merging_bytes": {"template": MINIONEREC, "tokenize": "apart"},
    "metaspace_bpe": {"template": MINIONEREC, "response_suffix": "\n{eos}", "tokenize": "apart"},
    "legacy_bpe": {"template": MINIONEREC, "response_suffix": "\n{eos}", "tokenize": "apart"},
    "unigram": {"template": MINIONEREC, "response_suffix": " {eos}"},
}


@pytest.mark.parametrize(
    ("codes", "bos"),
    [
        ("added", False),
        ("added", True),
        ("their own", False),
        ("their own, plain", True),
        ("spelled", False),
        ("spelled", True),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_have_the_tokens_of_their_text(family: str, codes: str, bos: bool, folder: Callable[..., Path]) -> None:
    own = CATALOG.words if codes.startswith("their own") else ()
    path = folder(family, bos, own, codes.endswith("plain"))
    prompt = TextPrompt(path, add_codes=codes == "added", **SETTINGS[family])
    encoder = prompt.encoder(CATALOG, max_items=6)
    spelled = codes == "spelled" or (
        family == "legacy_bpe" and codes.endswith("plain")
    )  # tokens at a word's start only
    assert (encoder.spelling.code_tokens is None) == spelled
    reference = encoder.vocabulary.tokenizer
    assert encoder.encode([0])[0].item() == reference.bos_token_id or not bos
    suffix = prompt.response_suffix.replace("{eos}", "</s>")
    for history in HISTORIES:
        text = prompt.template.replace("{history}", ", ".join(map(sid, history[-6:])))
        tokens = encoder.encode(history)
        assert tokens.tolist() == reference(text).input_ids
        assert tokens.dtype == torch.long
        for item in range(CATALOG.num_items):
            if prompt.tokenize == "together":
                expected = reference(text + sid(item) + suffix).input_ids
            else:
                expected = reference(text).input_ids + reference(sid(item) + suffix, add_special_tokens=False).input_ids
            learnt, labels = encoder.encode_labelled([*history, item])
            assert learnt.tolist() == [*tokens.tolist(), *response(encoder, item)] == expected
            assert len(learnt) <= encoder.num_tokens(np.array(len(history) + 1))
            assert labels.tolist() == [IGNORED] * len(tokens) + response(encoder, item)
    lengths = np.array([len(encoder.encode_labelled([0] * num)[0]) for num in range(1, 10)])
    bounds = encoder.num_tokens(np.arange(1, 10))
    assert (bounds >= lengths).all()
    assert encoder.max_prompt_tokens + encoder.spelling.sids.shape[1] == bounds[6] == bounds[-1], (
        "6 items and a response"
    )
    if codes == "added":
        assert (bounds == lengths).all()
    assert ItemTrie(encoder.spelling.sids).num_leaves == 4


@pytest.mark.parametrize("family", ["byte_level", "metaspace_bpe"])
@pytest.mark.parametrize("codes", [WORDS, ()])
def test_prefix_and_suffix_are_tokens_of_the_response(
    codes: tuple[str, ...], family: str, folder: Callable[..., Path]
) -> None:
    settings = {"response_prefix": "<|sid_begin|>", "response_suffix": "<|sid_end|>\n{eos}"}
    prompt = TextPrompt(folder(family, codes=codes), MINIONEREC, "<|sid_begin|>{codes}<|sid_end|>", "", **settings)
    encoder = prompt.encoder(CATALOG, 20)
    reference, spelling = encoder.vocabulary.tokenizer, encoder.spelling
    text = MINIONEREC.replace("{history}", f"<|sid_begin|>{sid(1)}<|sid_end|><|sid_begin|>{sid(3)}<|sid_end|>")
    tokens, labels = encoder.encode_labelled([1, 3, 2])
    assert tokens.tolist() == reference(f"{text}<|sid_begin|>{sid(2)}<|sid_end|>\n</s>").input_ids
    prompt_tokens = reference(text).input_ids
    assert encoder.encode([1, 3]).tolist() == [*prompt_tokens, *spelling.prefix]
    assert (labels == IGNORED).tolist() == [position < len(prompt_tokens) for position in range(len(tokens))]
    learnt = reference.decode(labels[labels != IGNORED]).replace(" ", "").replace("<0x7C>", "|")
    assert learnt == f"<|sid_begin|>{sid(2)}<|sid_end|>\n</s>"
    assert "<|sid_begin|>".startswith(reference.decode(spelling.prefix).replace("<0x7C>", "|").strip())
    assert spelling.prefix
    if codes:
        assert spelling.prefix == (reference.convert_tokens_to_ids("<|sid_begin|>"),)
        assert spelling.suffix[0] == reference.convert_tokens_to_ids("<|sid_end|>")
        assert spelling.sids.equal(
            torch.cat([spelling.code_tokens[CATALOG.codes], torch.tensor(spelling.suffix).expand(5, -1)], 1)
        )


@pytest.mark.parametrize("lowers", [False, True])
def test_codes_of_the_vocabulary_proper_are_single_tokens_if_the_text_gives_them(lowers: bool, tmp_path: Path) -> None:
    words = ["</s>", ":", "<unk>", *(word for code in CATALOG.words for word in (code.upper(), code))]
    tokenizer = Tokenizer(models.WordLevel({word: token for token, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("<[^>]+>"), "isolated")
    if lowers:
        tokenizer.normalizer = normalizers.Lowercase()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(tmp_path)
    catalog = ItemCatalog({"x": ["<A_1>", "<B_2>"], "y": ["<A_10>", "<B_2>"]})
    spelling = TextPrompt(tmp_path, "{history}:").encoder(catalog, 20).spelling
    ids = [[words.index(word.lower() if lowers else word) for word in catalog.sid(item)] for item in range(2)]
    assert spelling.sids.tolist() == [[*sid, 0] for sid in ids]
    assert (spelling.code_tokens is None) == lowers


def test_prompts_of_bordered_codes_are_put_together_without_tokenizing(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextPrompt(folder("byte_level"), LCREC, add_codes=True, max_tokens=200).encoder(CATALOG, 20)
    expected = [encoder.vocabulary.tokenize(encoder.text.write(history)) for history in HISTORIES]
    monkeypatch.delattr(type(encoder.vocabulary), "tokenize")
    assert [encoder.encode(np.array(history, np.int32)).tolist() for history in HISTORIES] == expected
    encoder.encode_labelled([0, 1])


TITLED = '"{title}" ({codes})'


@pytest.mark.parametrize("item", ["{codes}", TITLED])
@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_a_long_history_loses_its_oldest_items(num_kept: int, item: str, folder: Callable[..., Path]) -> None:
    path, history = folder("byte_level", codes=CATALOG.words), [0, 1, 2, 3, 2, 1, 2]
    free = TextPrompt(path, LCREC, item).encoder(CATALOG, 20)
    kept = history[-num_kept:]
    limit = len(free.encode(kept))
    encoder = TextPrompt(path, LCREC, item, max_tokens=limit).encoder(CATALOG, 20)
    assert encoder.encode(history).tolist() == free.encode(kept).tolist()
    assert encoder.cut(history) == kept
    assert encoder.encode_labelled([*history, 0])[0].tolist() == free.encode_labelled([*kept, 0])[0].tolist()
    assert encoder.max_prompt_tokens == limit
    assert encoder.num_tokens(np.array([50])) == limit + encoder.spelling.sids.shape[1]
    assert encoder.encode([]).tolist() == free.encode([]).tolist()


@pytest.mark.parametrize("item", ["{codes}", TITLED])
def test_a_prompt_that_cannot_fit_says_by_how_much(item: str, folder: Callable[..., Path]) -> None:
    path = folder("byte_level", codes=CATALOG.words)
    free = TextPrompt(path, LCREC, item).encoder(CATALOG, 20)
    most = max(len(free.encode([each])) for each in range(5))
    name = "soap" if item == "{codes}" else "sponge"
    with pytest.raises(ValueError, match=f"the one item '{name}' has {most} tokens, 3 more than its max_tokens, "):
        TextPrompt(path, LCREC, item, max_tokens=most - 3).encoder(CATALOG, 20)


def test_titles_are_written_where_the_catalog_has_them(folder: Callable[..., Path]) -> None:
    path = folder("metaspace_bpe", codes=CATALOG.words)
    encoder = TextPrompt(path, "Bought: {history}.\n", TITLED, "; ").encoder(CATALOG, 20)
    expected = f'Bought: "Sponge, wooden" ({sid(2)}); "Brush 2" ({sid(4)}).\n'
    assert encoder.encode([2, 4]).tolist() == AutoTokenizer.from_pretrained(path)(expected).input_ids
    untitled = ItemCatalog({"x": ["<a_1>"], "y": ["<a_2>"]}, titles={"x": "X"})
    for catalog, name in ((untitled, "y"), (ItemCatalog({"x": ["<a_1>"]}), "x")):
        with pytest.raises(ValueError, match=f"item '{name}' has no title, which the prompt's item"):
            TextPrompt(path, "{history}", TITLED).encoder(catalog, 20)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("byte_level", {"template": "x"}, "the prompt 'x' has {history} 0 times"),
        ("byte_level", {"template": "{history}{history}"}, "has {history} 2 times"),
        ("byte_level", {"template": "{history}", "item": "soap"}, "'soap' has neither {codes} nor {title}"),
        (
            "unigram",
            {"template": "{history}\n", "response_suffix": ""},
            "set the prompt's response_suffix to an end t",
        ),
        (
            "merging_bytes",
            {"template": "{history}\n", "response_suffix": "_"},
            "each must end with one token that ends no c",
        ),
        ("merging_bytes", {"template": "{history} request, with "}, "the tokenizer merges across the border"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    family: str, settings: dict[str, Any], message: str, folder: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        TextPrompt(folder(family), **settings).encoder(CATALOG, 20)


def test_a_response_whose_tokens_depend_on_the_history_is_refused(folder: Callable[..., Path]) -> None:
    titles = {"soap": "soap\n", "comb": "y\n", "sponge": "x\n", "towel": "a request, with ", "brush": "z\n"}
    catalog = ItemCatalog({name: CATALOG.sid(item) for item, name in enumerate(CATALOG.names)}, titles)
    encoder = TextPrompt(folder("merging_bytes"), "{history}", "{title}", "").encoder(catalog, 20)
    encoder.encode_labelled([3, 0, 0])
    with pytest.raises(
        ValueError, match="the response '<a_1><b_2>' has other tokens after 'soap.+na request, with ' than"
    ):
        encoder.encode_labelled([0, 3, 0])
