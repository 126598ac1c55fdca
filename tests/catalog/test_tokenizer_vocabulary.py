import json
from pathlib import Path

import pytest

from atspeed.catalog import TokenizerVocabulary
from tests.prompts.tiny_tokenizers import byte_level, legacy_bpe, save

CODES = ("<a_1>", "<b_2>")


def test_missing_codes_are_added_once_and_the_exported_folder_has_the_same_ids(tmp_path: Path) -> None:
    base = save(tmp_path / "base", byte_level(), codes=CODES[:1])
    vocabulary = TokenizerVocabulary(base, CODES)
    num_base = len(TokenizerVocabulary(base))
    assert vocabulary.code_tokens([*CODES, "<c_3>"]) == [num_base - 1, num_base, None]
    assert len(vocabulary) == num_base + 1
    assert vocabulary == TokenizerVocabulary(base, CODES) != TokenizerVocabulary(base)
    vocabulary.save(tmp_path / "exported")
    exported = TokenizerVocabulary(tmp_path / "exported", CODES)
    assert exported == vocabulary
    assert exported.num_added == 0
    text = "soap<a_1><b_2> <b_2></s>"
    assert exported.tokenize(text) == vocabulary.tokenize(text)
    assert exported.text(exported.tokenize(text)) == text
    assert exported.tokens_written(exported.tokenize("<a_1>\n")) == ["<a_1>", "Ċ"]
    vocabulary.check(tmp_path / "exported")


def test_a_model_with_other_token_ids_is_refused_with_what_differs(tmp_path: Path) -> None:
    base, other = save(tmp_path / "base", byte_level()), save(tmp_path / "other", byte_level(), codes=("<b_2>", "<c>"))
    first = len(TokenizerVocabulary(base))
    with pytest.raises(ValueError, match="with 2 added codes") as error:
        TokenizerVocabulary(base, CODES).check(other)
    for part in (
        "3 tokens differ",
        f"'<a_1>' is {first} here and None there",
        f"'<b_2>' is {first + 1} here and {first} th",
    ):
        assert part in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no tokenizer"):
        TokenizerVocabulary(base).check(tmp_path / "empty")


def test_folders_without_a_readable_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        TokenizerVocabulary(tmp_path / "org" / "model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read"):
        TokenizerVocabulary(tmp_path)


def test_code_in_the_folder_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="cannot be read"):
        TokenizerVocabulary(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_special_tokens_fall_back_and_bos_is_found(tmp_path: Path) -> None:
    plain = TokenizerVocabulary(save(tmp_path / "plain", byte_level()))
    assert (plain.pad_token, plain.bos_token, plain.eos_token, plain.unknown_token) == (2, 1, 2, None)
    assert not plain.adds_bos
    assert TokenizerVocabulary(save(tmp_path / "bos", legacy_bpe(), bos=True)).adds_bos
    config = tmp_path / "plain" / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "TokenizersBackend"}))
    bare = TokenizerVocabulary(tmp_path / "plain")
    assert (bare.pad_token, bare.bos_token, bare.eos_token, bare.adds_bos) == (0, None, None, False)


def test_only_tokens_that_are_matched_as_written_are_borders(tmp_path: Path) -> None:
    assert TokenizerVocabulary(save(tmp_path / "nfc", byte_level(), codes=CODES, plain_codes=True)).borders >= {*CODES}
    legacy = TokenizerVocabulary(save(tmp_path / "legacy", legacy_bpe(), codes=CODES[:1], plain_codes=True), CODES)
    assert legacy.borders & {*CODES} == {"<b_2>"}
