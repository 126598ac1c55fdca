"""What the command line shows when something is wrong: what a word was meant to be, and tracebacks that help only."""

import inspect
import os
import pydoc
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser

from atspeed.data import InteractionSource
from atspeed.decoding import Drafter, Verifier
from atspeed.losses import AlignmentLoss
from atspeed.models import ModelSource
from atspeed.modules import StageModule

PLUG_INS = (InteractionSource, ModelSource, AlignmentLoss, Drafter, Verifier, StageModule, Callback)
TRACEBACK = "ATSPEED_TRACEBACK"
USAGE_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what ``word`` was probably meant to be, as the end of a message; empty if nothing is like it.

    >>> suggestion("num_beam", ["num_beams", "seed"])
    "; did you mean 'num_beams'?"
    """
    return "".join(f"; did you mean {name!r}?" for name in get_close_matches(word, known, n=1))


def explain(message: str, options: Iterable[str]) -> str:
    """Return a parser's error message in short, with a suggestion for an unknown option or class.

    Args:
        message: the message of jsonargparse.
        options: the parser's options, such as ``--data.seed``.
    """
    if found := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        path, option = found.groups()
        known = inspect.signature(pydoc.locate(path)).parameters  # type: ignore[arg-type]
        return f"{path} has no setting {option!r}{suggestion(option, known)}"
    if found := re.search(r"Expected a dot import path string: (\w+)", message):
        name = found[1]
        return f"there is no class {name!r}{suggestion(name, {cls.__name__ for cls in _subclasses(PLUG_INS)})}"
    if found := re.search(r"unrecognized arguments: (--[\w.]+)|does not accept option '([\w.]+)'", message):
        option = found[1] or f"--{found[2]}"
        return f"there is no setting {option.removeprefix('--')!r}{suggestion(option, options).replace('--', '')}"
    return re.sub(r"\n\s+Given value type: .*", "", message, flags=re.DOTALL)  # the value may be a whole config


def _subclasses(classes: Iterable[type]) -> Iterator[type]:
    for cls in classes:
        yield cls
        yield from _subclasses(cls.__subclasses__())


class _ExplainsErrors:
    def error(self: Any, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, without the usage (a screen or more), and exit."""
        if not self.exit_on_error:
            super().error(message, ex)  # type: ignore[misc]
        parser = getattr(ex, "subcommand_parser", None) or self
        fail(explain(message, parser._option_string_actions), parser.prog.replace(" [options]", ""))


class Parser(_ExplainsErrors, ArgumentParser):
    """A parser with clear errors."""


class TrainerParser(_ExplainsErrors, LightningArgumentParser):
    """A parser with clear errors, for LightningCLI."""


def fail(message: str, command: str) -> NoReturn:
    """Print what is wrong with a command line, and exit."""
    print(f"error: {message}\ntip: {command} --help shows what there is", file=sys.stderr)
    sys.exit(USAGE_ERROR)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Print the message alone of an error that this project's own code raises, and give each end its exit code.

    With the environment variable ``ATSPEED_TRACEBACK``, and for errors that come from elsewhere, there is a traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # the Trainer exits with 1
            _interrupted()
        raise
    except (OSError, TypeError, ValueError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        package = frame.f_globals["__name__"].partition(".")[0]
        if TRACEBACK in os.environ or package not in ("atspeed", "callbacks"):
            raise
        print(f"error: {error}\n({TRACEBACK}=1 shows where it was raised)", file=sys.stderr)
        sys.exit(FAILURE)


def _interrupted() -> NoReturn:
    print("interrupted; fit goes on with --ckpt_path last, predict with the same command", file=sys.stderr)
    sys.exit(INTERRUPTED)
