import gzip
from pathlib import Path

import pytest

from atspeed.data.sources.text_files import read_lines, read_text


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
