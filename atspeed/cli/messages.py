"""What a user sees when something is wrong: one line, a suggestion, and an exit code."""

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn

TRACEBACK = "ATSPEED_TRACEBACK"
USAGE_ERROR, FAILURE, INTERRUPTED, TERMINATED = 2, 1, 130, 143
EXPLAINED = (ImportError, OSError, TypeError, ValueError)
"""Errors whose message is meant for the user."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the known word that ``word`` probably stands for, as the end of a message; empty if none is similar.

    >>> suggestion("num_beam", ["num_beams", "seed"])
    "; did you mean 'num_beams'?"
    """
    return "".join(f"; did you mean {name!r}?" for name in get_close_matches(word, known, n=1))


def fail(message: str, command: str) -> NoReturn:
    """Print what is wrong with a command line, and exit with code 2."""
    print(f"error: {message}\ntip: {command} --help shows the options", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def report(error: Exception, code: int) -> NoReturn:
    """Print the message of an error without its traceback, and exit.

    With the environment variable ``ATSPEED_TRACEBACK`` the error is raised instead.
    """
    if TRACEBACK in os.environ:
        raise error
    print(f"error: {error}\n({TRACEBACK}=1 shows where it was raised)", file=sys.stderr)
    sys.exit(code)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Report errors raised by this project's own code without a traceback, and exit with the code of the failure.

    The exit code is 1 for an error and 130 for an interrupt. Errors raised by other packages keep their traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        stopped("interrupted", INTERRUPTED)
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # the Trainer exits with 1
            stopped("interrupted", INTERRUPTED)
        raise
    except EXPLAINED as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if frame.f_globals["__name__"].partition(".")[0] != "atspeed":
            raise
        report(error, FAILURE)


def stopped(how: str, code: int) -> NoReturn:
    """Say how to resume what a signal has ended, and exit."""
    print(f"{how}; fit resumes with --ckpt_path last, predict with the same command", file=sys.stderr)
    sys.exit(code)
