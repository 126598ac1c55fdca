"""What the checks find, and how it is printed."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from rich.console import Console
from rich.text import Text

WIDTH = 100
Verdict = Literal["good", "warning", "failed", "skipped"]
STYLES: dict[Verdict, str] = {"good": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was checked.
        verdict: how it went; a warning is right but slow, or right here but not elsewhere.
        facts: what is so, in sentences.
        changes: what to change, in sentences.
        block: lines that are printed as they are, below the facts.
    """

    check: str
    verdict: Verdict
    facts: Sequence[str]
    changes: Sequence[str] = ()
    block: Sequence[str] = ()


def attempt(action: Callable[[], T]) -> tuple[T | None, str]:
    """Return what an action returns and an empty text, or None and why it failed, in one line.

    Whatever a broken folder raises is a finding, not an error of the doctor's.
    """
    try:
        return action(), ""
    except Exception as error:
        message = " ".join(str(error).split())
        is_own = message and isinstance(error, ValueError | FileNotFoundError)
        return None, message if is_own else f"{type(error).__name__}: {message}"


def show_finding(finding: Finding) -> None:
    """Print a finding."""
    title = Text.assemble((finding.check, "bold"), ": ", (finding.verdict, STYLES[finding.verdict]))
    _print([title, *(Text(line) for fact in finding.facts for line in _wrapped(fact, "  "))])
    _print([Text(line) for line in [*finding.block, ""]])


def show_changes(findings: Iterable[Finding]) -> None:
    """Print the last section: what to change, each thing once."""
    changes = list(dict.fromkeys(change for finding in findings for change in finding.changes))
    lines = [line for change in changes for line in _wrapped(f"- {change}", "  ")]
    _print([Text("what to change", "bold"), *map(Text, lines or ["  nothing"])])


def _wrapped(text: str, indent: str) -> list[str]:
    after = indent + ("  " if text.startswith("- ") else "")
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )


def _print(lines: Iterable[Text]) -> None:
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)  # a path in a line can be copied
