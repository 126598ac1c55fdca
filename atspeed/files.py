"""Files that are complete or not there."""

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``file``, which then replaces it; a kill leaves no half-written file."""
    partial = file.with_name(f"{file.name}.partial")
    write(partial)
    os.replace(partial, file)
