"""Bearer tokens."""

import hashlib
import hmac
import os
from pathlib import Path


def read_token(name: str) -> str | None:
    """Return the token of an environment variable, or of the file that the variable with ``_FILE`` names; None: none.

    Never from the command line, which every process of the machine can see.

    Args:
        name: of the variable, ``ATSPEED_TOKEN`` for example.

    Raises:
        ValueError: if both are set, the file cannot be read, or the token is empty or not ASCII.
    """
    token, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if token is None and file is None:
        return None
    if token is not None and file is not None:
        raise ValueError(f"{name} and {name}_FILE are both set; unset one of them")
    if file is not None:
        try:
            token = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{name}_FILE: {file} cannot be read: {error}") from error
    if not token or not token.isascii():
        raise ValueError(f"the token of {name if file is None else file} is {'not ASCII' if token else 'empty'}")
    return token


def is_authorised(header: str | None, token: str) -> bool:
    """Return whether an ``Authorization`` header carries a token; takes the same time for every wrong one."""
    scheme, _, given = (header or "").partition(" ")
    same = hmac.compare_digest(_digest(given.strip()), _digest(token))
    return same and scheme.lower() == "bearer"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
