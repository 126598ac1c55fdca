"""Dispatch of the commands; a command's own imports, which take seconds, wait until it is chosen."""

import gc
import os
import sys

from atspeed.cli.messages import explained_errors, fail, suggestion
from atspeed.cli.overview import COMMANDS, PROGRAM, overview


def main(args: list[str] | None = None) -> None:
    """Run a command.

    Args:
        args: the command and its options; those of the process if not given.

    Raises:
        SystemExit: 0 after help, 2 if the command line is wrong.
    """
    args = sys.argv[1:] if args is None else args
    command = args[0] if args else "--help"
    if command in ("-h", "--help"):
        print(overview())
    elif command == "quickstart":
        from atspeed.cli.quickstart import quickstart

        quickstart(args[1:], main)
    elif command in COMMANDS or command.startswith("-"):  # -c CONFIG fit
        gc.disable()  # nothing to collect in 3,000 modules, and looking takes a seventh of the time that they take
        from atspeed.cli.commands import run

        gc.enable()
        run(args)
    else:
        fail(f"there is no command {command!r}{suggestion(command, COMMANDS)}", PROGRAM)


def console() -> None:
    """Run the process's command line, as ``python -m atspeed`` and as the console command ``atspeed``."""
    if os.getcwd() not in sys.path:  # python -m puts it there: a config may name classes of the working directory
        sys.path.insert(0, os.getcwd())
    with explained_errors():
        main()
