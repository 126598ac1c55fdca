import gzip
from pathlib import Path

import pytest

from atspeed.data.sources.text_files import MalformedLines, read_json_object, read_lines, read_text


def test_lines_have_their_numbers_and_no_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\n\n  \nfour é\n".encode())
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "one"), (4, "four é")]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo"))
    assert read_text(tmp_path / "a.txt.gz") == "one\ntwo"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\ntw\xe9\n", r"a.txt:2: not UTF-8 \(byte 0xe9\)"),
        ("a.gz", gzip.compress(b"one\n" * 999)[:-9], "a.gz: damaged or truncated after line 999"),
        ("a.gz", b"one\n", "a.gz: damaged or truncated after line 0: Not a gzipped file"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_lines(tmp_path / name))


def test_json_objects_have_each_key_once(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"b": {"c": 1},\n\n"d": [2]}')
    assert read_json_object(file) == {"b": {"c": 1}, "d": [2]}
    for content, message in (
        ('{"b": {"c": 1, "c": 1}}', "the key 'c' is there twice"),
        ("[]", "the file holds no JSON object"),
        ('{"b": 1', "Expecting ',' delimiter"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_json_object(file)


def test_malformed_lines_and_entries_are_refused_or_counted(caplog: pytest.LogCaptureFixture) -> None:
    file = Path("a.txt")
    with pytest.raises(ValueError, match=r"^a.txt:7: no user; data.source.skip_malformed leaves such lines out$"):
        MalformedLines(skip=False).report(file, 7, "no user")
    with pytest.raises(ValueError, match=r"^a.txt: no user; data.source.skip_malformed leaves such entries out$"):
        MalformedLines(skip=False).report(file, None, "no user")
    malformed = MalformedLines(skip=True)
    for number in (7, 8, None):
        malformed.report(file, number, "no user")
    assert malformed.counts == {"malformed lines of a.txt": 2, "malformed entries of a.txt": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"{location}: skipped, and so are others like it: no user" for location in ("a.txt:7", "a.txt")
    ]
