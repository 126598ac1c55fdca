"""The command that serves a bundle."""

import sys
from collections.abc import Callable
from pathlib import Path

from atspeed.cli.demo import demo_bundle
from atspeed.cli.messages import fail
from atspeed.cli.overview import COMMANDS, PROGRAM
from atspeed.cli.parser import PARSER_SETTINGS, Parser, construct

DEMO_RUN_DIR = Path("runs/demo")
USAGE = f"{PROGRAM} serve --bundle FOLDER [options]"


def serve(args: list[str], main: Callable[[list[str]], None]) -> None:
    """Serve a bundle until a signal comes, then exit.

    Args:
        args: the options of the command.
        main: runs a command line of atspeed.

    Raises:
        ImportError: without the extra ``serve``.
        SystemExit: with the exit code of the server.
    """
    try:
        from atspeed.serving.server import Server
    except ModuleNotFoundError as error:
        raise ImportError(f"serve needs {error.name}; install it with: pip install 'atspeed[serve]'") from error
    parser = Parser(prog=f"{PROGRAM} serve", description=COMMANDS["serve"], usage=USAGE, **PARSER_SETTINGS)
    parser.add_argument(
        "--demo", action="store_true", help=f"train for the embedded catalog in {DEMO_RUN_DIR}, serve that"
    )
    if "--demo" in args:
        if any(word.partition("=")[0] == "--bundle" for word in args):
            fail("--demo makes a bundle of its own; leave out --bundle", f"{PROGRAM} serve")
        args = [*args, "--bundle", str(DEMO_RUN_DIR / "recommender")]
    parser.add_class_arguments(Server, None)
    settings = parser.parse_args(args).as_dict()
    if settings.pop("demo"):
        demo_bundle(DEMO_RUN_DIR, main)
    sys.exit(construct(Server, **settings).run())
