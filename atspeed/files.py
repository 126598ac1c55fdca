"""Files that are whole or not there."""

import os
from collections.abc import Callable
from pathlib import Path


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``file``, which then takes its place at once; a kill leaves no half of it."""
    partial = file.with_name(f"{file.name}.partial")
    write(partial)
    os.replace(partial, file)
