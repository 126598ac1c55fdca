"""The list of a bundle's files, by which it is checked."""

import hashlib
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from atspeed.provenance import versions

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of a bundle's format; a reader refuses a newer one."""
MANIFEST = "manifest.json"
Check = Literal["full", "size"]


def write_manifest(folder: Path) -> None:
    """List all files of a folder, with their sizes and SHA-256, in its ``manifest.json``."""
    record = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "files": {
            name: {"size": (folder / name).stat().st_size, "sha256": _digest(folder / name)} for name in _files(folder)
        },
    }
    (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n")


def check_manifest(folder: Path, check: Check) -> str:
    """Check that a folder holds what its manifest lists, nothing less, nothing else and nothing more.

    This finds damage and mistakes. Whoever can write to the folder can also write a manifest that fits.

    Args:
        folder: the bundle.
        check: ``full`` reads all files; ``size`` compares sizes only, and says so in a log line.

    Returns:
        a hash of all content, the bundle's fingerprint.

    Raises:
        FileNotFoundError: if the folder is no bundle.
        ValueError: if its format is newer than this version of atspeed, or files are not as listed.
    """
    if check not in get_args(Check):
        raise ValueError(f"check is {check!r}; expected one of {', '.join(get_args(Check))}")
    files = _read(folder)["files"]
    found = set(_files(folder))
    if missing := sorted(files.keys() - found):
        raise ValueError(
            f"the bundle {folder} is incomplete: {missing[0]} is missing ({len(missing)} files); {WAY_OUT}"
        )
    if unknown := sorted(found - files.keys()):
        raise ValueError(
            f"the bundle {folder} has a file that its manifest does not list, {unknown[0]}; remove it, or {WAY_OUT}"
        )
    for name, listed in files.items():
        size = (folder / name).stat().st_size
        if size != listed["size"]:
            raise ValueError(
                f"{folder / name} has {size} bytes, the manifest says {listed['size']}: it is truncated or changed; "
                f"{WAY_OUT}"
            )
        if check == "full" and _digest(folder / name) != listed["sha256"]:
            raise ValueError(
                f"the content of {folder / name} is not what the manifest lists (SHA-256): it was changed or damaged; "
                f"{WAY_OUT}"
            )
    if check == "size":
        log.info(
            "bundle %s: the sizes of %d files were checked, their content was not (check: size)", folder, len(files)
        )
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


WAY_OUT = "copy the bundle again, or make it anew with: python -m atspeed bundle"


def is_bundle(folder: Path) -> bool:
    """Return whether a folder is a bundle."""
    return (folder / MANIFEST).is_file()


def _read(folder: Path) -> dict[str, Any]:
    if not is_bundle(folder):
        raise FileNotFoundError(f"{folder} is no bundle: it has no {MANIFEST}; make one with: python -m atspeed bundle")
    try:
        record = json.loads((folder / MANIFEST).read_text())
        newest, files = int(record["format"]), record["files"]
        complete = all({"size", "sha256"} <= listed.keys() for listed in files.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / MANIFEST} is damaged: {error!r}; {WAY_OUT}") from error
    if newest > FORMAT:
        raise ValueError(f"{folder} has format {newest}; the newest known here is {FORMAT}: update atspeed")
    if not complete:
        raise ValueError(f"{folder / MANIFEST} is damaged: a file has no size or sha256; {WAY_OUT}")
    return record


def _files(folder: Path) -> list[str]:
    files = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())
    return sorted(name for name in files if name != MANIFEST)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
