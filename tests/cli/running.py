"""Command lines, run in this process or in a new one."""

import io
import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

import atspeed.cli.commands  # noqa: F401  (Lightning sets environment variables when a test is the first to import it)
from atspeed.cli.main import main
from atspeed.cli.messages import explained_errors

ROOT = Path(__file__).parents[2]
SMALL_DATA = ["--data.source", "EmbeddedCatalog", "--data.source.num_users", "40", "--data.source.num_items", "140"]
SMALL_MODEL = ["--model.network.config.hidden_size", "48", "--model.network.config.num_hidden_layers", "1"]


def run_here(*arguments: str, code: int = 0) -> str:
    """Run a command line as ``console`` does, without the seconds that a new process takes; return its output.

    Log lines are part of the output.
    """
    argv, threads = sys.argv, torch.get_num_threads()
    sys.argv = ["atspeed", *arguments]  # a run's record has it
    output = io.StringIO()
    handler, log = logging.StreamHandler(output), logging.getLogger("atspeed")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    ended = 0
    try:
        with redirect_stdout(output), redirect_stderr(output), explained_errors():
            main()
    except SystemExit as exit_:
        ended = int(exit_.code or 0)
    finally:
        sys.argv = argv
        log.removeHandler(handler)
        log.setLevel(level)
        torch.set_num_threads(threads)
    if ended != code:
        pytest.fail(f"{' '.join(arguments)}\nended with {ended}\n{output.getvalue()[-4000:]}")
    return output.getvalue()


def run_process(*arguments: str, code: int = 0, folder: Path | None = None) -> str:
    """Run ``python -m atspeed`` in a folder; return its output."""
    command = [sys.executable, "-m", "atspeed", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder, env=environment)
    output = done.stdout + done.stderr
    if done.returncode != code:
        pytest.fail(f"{' '.join(command)}\nended with {done.returncode}\n{output[-4000:]}")
    return output
