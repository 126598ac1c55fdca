from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from atspeed.catalog import CompactVocabulary, ItemCatalog


def test_collisions_are_kept_and_codes_are_in_natural_order() -> None:
    catalog = ItemCatalog({"x": ["<a_10>", "<b_1>"], "y": ["<a_2>", "<b_1>"], "z": ["<a_10>", "<b_1>"]})
    assert CompactVocabulary(catalog.words).words[3:] == ("<a_2>", "<a_10>", "<b_1>")
    assert catalog.items(["<a_10>", "<b_1>"]) == [0, 2]
    assert catalog.items(["<a_2>", "<b_2>"]) == []


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        ({}, "the catalog has no item"),
        ({"x": []}, "item 'x' has the semantic ID"),
        ({"x": "<a_1>"}, "item 'x' has the semantic ID '<a_1>'; expected a list"),
        ({"x": ["a"], "y": ["a", "b"]}, "item 'y' has a semantic ID of 2 codes, item 'x' one of 1"),
    ],
)
def test_bad_sids_are_refused(sids: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ItemCatalog(sids)


@pytest.mark.parametrize(
    ("sids", "message"),
    [
        ([], "the catalog has no item"),
        ([["a"], []], r"item '1' has the semantic ID \[\]; expected a list"),
        ([["a"], None], "item '1' has the semantic ID None; expected a list"),
        ([["a", "b"], ["a", None]], r"item '1' has the semantic ID \['a', None\]; expected a list"),
        ([["a"], ["a", "b"]], "item '1' has a semantic ID of 2 codes, item '0' one of 1"),
    ],
)
def test_bad_sids_in_columns_are_refused_in_the_same_words(sids: list, message: str) -> None:
    names = pa.array([str(item) for item in range(len(sids))], pa.string())
    with pytest.raises(ValueError, match=message):
        ItemCatalog.from_table(pa.table({"item": names, "sid": pa.array(sids, pa.list_(pa.string()))}))


def test_columns_give_the_same_catalog_as_a_mapping() -> None:
    sids = {"x": ["<a_10>", "<b_1>"], "y": ["<a_2>", "<b_1>"], "z": ["<a_10>", "<b_1>"], "w": ["<b_1>", "<a_2>"]}
    items = pa.table({"item": ["v", *sids], "sid": [["<c_9>", "<c_9>"], *sids.values()]})
    ours, theirs = ItemCatalog.from_table(items[1:]), ItemCatalog(sids)
    assert (ours.names, ours.words) == (theirs.names, theirs.words)
    assert ours.codes.equal(theirs.codes)
    assert ours.codes.dtype == torch.int32


def test_a_model_that_has_learnt_more_codes_keeps_their_order_and_refuses_others() -> None:
    items = pa.table({"item": ["x", "y"], "sid": [["<a_2>", "<b_1>"], ["<a_2>", "<b_0>"]]})
    words = ["<b_1>", "<a_1>", "<a_2>", "<b_0>"]
    catalog = ItemCatalog.from_table(items, words)
    assert catalog.words == tuple(words)
    assert catalog.codes.tolist() == [[2, 0], [2, 3]]
    with pytest.raises(
        ValueError, match="item 'y' has the code '<b_0>', which the model has not learnt; it knows 3 codes"
    ):
        ItemCatalog.from_table(items, words[:3])


def test_unknown_item_is_named() -> None:
    with pytest.raises(ValueError, match=r"item 'soap' is not in the catalog \(1 items, e.g. 'x'\)"):
        ItemCatalog({"x": ["a"]}).index("soap")


def test_vocabulary_is_a_tokenizer_that_transformers_reads(tmp_path: Path) -> None:
    vocabulary = CompactVocabulary(["<a_1>", "<b_1>"])
    vocabulary.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("<bos> <a_1> <b_1> <sep>", add_special_tokens=False).input_ids == [1, 3, 4, 2]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.sep_token_id) == (0, 1, 2)
    assert CompactVocabulary.load(tmp_path) == vocabulary
    assert CompactVocabulary(["<a_1>"]) != vocabulary


def test_codes_that_are_special_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="collide with the special tokens"):
        CompactVocabulary(["<pad>"])


def test_foreign_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no tokenizer.json"):
        CompactVocabulary.load(tmp_path)


def test_semantic_ids_are_indices_into_the_sorted_words() -> None:
    catalog = ItemCatalog({"x": ["<a_10>", "<b_1>"], "y": ["<a_2>", "<b_1>"], "z": ["<a_10>", "<b_1>"]})
    assert catalog.words == ("<a_2>", "<a_10>", "<b_1>")
    assert catalog.codes.tolist() == [[1, 2], [0, 2], [1, 2]]
    assert catalog.codes.dtype == torch.int32
    assert [catalog.sid(item) for item in range(3)] == [("<a_10>", "<b_1>"), ("<a_2>", "<b_1>"), ("<a_10>", "<b_1>")]
    assert catalog.items(["<a_10>"]) == catalog.items(["<a_10>", "<b_1>", "<b_1>"]) == [], "of another length"
    assert "y" in catalog
    assert "<a_2>" not in catalog
