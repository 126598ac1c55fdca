from pathlib import Path

import pytest

from atspeed.serving.security import is_authorised, read_token


def test_a_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token("T") is None
    monkeypatch.setenv("T", "secret")
    assert read_token("T") == "secret"
    file = tmp_path / "token"
    file.write_text("other\n")
    monkeypatch.setenv("T_FILE", str(file))
    with pytest.raises(ValueError, match="T and T_FILE are both set"):
        read_token("T")
    monkeypatch.delenv("T")
    assert read_token("T") == "other"
    file.write_text(" \n")
    with pytest.raises(ValueError, match=f"the token of {file} is empty"):
        read_token("T")
    monkeypatch.setenv("T_FILE", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="T_FILE: .*missing cannot be read"):
        read_token("T")
    monkeypatch.delenv("T_FILE")
    monkeypatch.setenv("T", "sécret")
    with pytest.raises(ValueError, match="the token of T is not ASCII"):
        read_token("T")


@pytest.mark.parametrize(
    ("header", "right"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer  secret ", True),
        ("Bearer secre", False),
        ("Bearer secret2", False),
        ("Basic secret", False),
        ("secret", False),
        ("", False),
        (None, False),
        ("Bearer s\udce9cret", False),
    ],
)
def test_headers(header: str | None, right: bool) -> None:
    assert is_authorised(header, "secret") == right
