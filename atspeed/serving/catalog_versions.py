"""The versions of the catalog that a service has accepted."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from atspeed.files import write_atomically

KEPT = 10
"""Versions that are kept to go back to, the newest included."""


class CatalogVersions:
    """Numbered tables of items; version 1 is the bundle's own.

    ::

        <state>/bundle.json                the fingerprint of the bundle that the versions belong to
        <state>/catalogs/00000002.parquet  the items of version 2

    Args:
        folder: where they are kept; None: in memory, until the process ends.
        items: of the bundle.
        fingerprint: of the bundle.

    Raises:
        ValueError: if the folder belongs to another bundle, or its newest version is damaged.
    """

    def __init__(self, folder: Path | None, items: pa.Table, fingerprint: str) -> None:
        self.folder = folder
        self._tables: dict[int, pa.Table] = {1: items}  # those that are in memory
        self._newest = 1
        if folder is None:
            return
        (folder / "catalogs").mkdir(parents=True, exist_ok=True)
        record = folder / "bundle.json"
        if record.is_file():
            found = json.loads(record.read_text())["fingerprint"]
            if found != fingerprint:
                raise ValueError(
                    f"the catalog versions in {folder} belong to another bundle ({found[:12]}…, this one is "
                    f"{fingerprint[:12]}…); choose another --state, or delete the folder to start from the bundle's "
                    "own catalog"
                )
        else:
            content = json.dumps({"fingerprint": fingerprint}) + "\n"
            write_atomically(record, lambda partial: partial.write_text(content))
        self._newest = max([1, *self._saved()])

    def _file(self, version: int) -> Path:
        assert self.folder is not None
        return self.folder / "catalogs" / f"{version:08}.parquet"

    def _saved(self) -> list[int]:
        if self.folder is None:
            return []
        return sorted(int(file.stem) for file in (self.folder / "catalogs").glob("*.parquet"))

    @property
    def newest(self) -> int:
        """Number of the newest version."""
        return self._newest

    def known(self) -> list[int]:
        """Return the numbers of the versions that are kept."""
        return sorted({*self._tables, *self._saved()})

    def table(self, version: int) -> pa.Table:
        """Return the items of a version.

        Raises:
            ValueError: if it is not kept, or its file is damaged.
        """
        if version in self._tables:
            return self._tables[version]
        if version not in self.known():
            raise ValueError(f"there is no version {version} of the catalog; there are {self.known()}")
        try:
            return pq.read_table(self._file(version))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self._file(version)} is damaged: {str(error).splitlines()[0]}; delete it to go back to the version "
                "before"
            ) from error

    def add(self, items: pa.Table) -> int:
        """Keep the items of a new version, and return its number; the oldest but the bundle's own may go."""
        version = self._newest + 1
        if self.folder is None:
            self._tables[version] = items
        else:
            write_atomically(self._file(version), lambda partial: pq.write_table(items, partial))
        self._newest = version
        for old in [number for number in self.known() if number > 1][:-KEPT]:
            self._tables.pop(old, None)
            if self.folder is not None:
                self._file(old).unlink(missing_ok=True)
        return version
