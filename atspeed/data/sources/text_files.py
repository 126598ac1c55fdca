"""Reading text files that users bring, with errors that name the file, the line and the way out."""

import gzip
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def require_folder(folder: Path, setting: str) -> None:
    """Raise ``FileNotFoundError`` naming the setting if there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{setting} {str(folder)!r} is not a folder")


def require_file(file: Path, expected: str) -> None:
    """Raise ``FileNotFoundError`` if there is no such file; ``expected`` says what it should hold."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; expected {expected}")


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file (also ``*.gz``) and their numbers from 1; line ends and blank lines are left out.

    Raises:
        ValueError: if the file is not UTF-8, or its compressed content is damaged or ends too early.
    """
    number = 0
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}:{number}: not UTF-8 (byte {error.object[error.start]:#04x})") from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{file}: damaged or truncated after line {number}: {error}") from error


def read_text(file: Path) -> str:
    """Return the content of a UTF-8 file; see :func:`read_lines` for what is raised."""
    return "\n".join(line for _, line in read_lines(file))


def read_json_object(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        ValueError: if it holds no JSON object or an object with the same key twice; see also :func:`read_lines`.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return content

    content = json.loads(read_text(file), object_pairs_hook=unique)
    if not isinstance(content, dict):
        raise ValueError("the file holds no JSON object")
    return content


class MalformedLines:
    """Refuses lines that cannot be read, or counts them.

    Args:
        skip: whether to count them.

    Attributes:
        counts: what was skipped → how many, for :attr:`Dataset.skipped`.
    """

    def __init__(self, skip: bool) -> None:
        self.skip = skip
        self.counts: Counter[str] = Counter()

    def report(self, file: Path, number: int | None, fault: str) -> None:
        """Raise ``ValueError`` with the file, the line's number and the fault, or count the line.

        Args:
            file: the file.
            number: number of the line; None for an entry of a file whose lines mean nothing, such as JSON.
            fault: what is wrong with it.
        """
        location, unit = (file, "entries") if number is None else (f"{file}:{number}", "lines")
        if not self.skip:
            raise ValueError(f"{location}: {fault}; data.source.skip_malformed leaves such {unit} out")
        what = f"malformed {unit} of {file.name}"
        if what not in self.counts:
            log.warning("%s: skipped, and so are others like it: %s", location, fault)
        self.counts[what] += 1
