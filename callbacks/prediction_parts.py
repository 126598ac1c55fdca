"""The answers that an unfinished prediction has on disk."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atspeed.files import write_atomically

Record = dict[str, Any]


class _Location(NamedTuple):
    """Where an answer is: its file, the offset of its line in bytes, and its index in that line's batch."""

    file: Path
    offset: int
    batch_index: int


class PredictionParts:
    """A folder of answered requests, from which an interrupted run resumes.

    ``part-<rank>.jsonl`` has one line per batch, ``[rows, records]``, where a row is a request's index in the input::

        [[4, 5], [{"user": "e", …}, {"user": "f", …}]]
        [[8, 9], [{"user": "i", …}, {"us                     killed here: prepare() cuts this line off

    ``settings.json`` holds what the answers depend on.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, settings: dict[str, str]) -> None:
        """Make the folder, or prepare it for resuming; one process calls this.

        Args:
            settings: what the answers depend on.

        Raises:
            ValueError: if the folder holds answers with other settings.
        """
        file = self.folder / "settings.json"
        if not file.is_file():  # killed before there was an answer
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_atomically(file, lambda partial: partial.write_text(json.dumps(settings, indent=2) + "\n"))
            return
        found = json.loads(file.read_text())
        changed = [name for name in found | settings if found.get(name) != settings.get(name)]
        if changed:
            was = "; ".join(f"{name} was {found.get(name)} and is {settings.get(name)}" for name in changed)
            raise ValueError(
                f"{self.folder} holds the answers of an interrupted run with other settings: {was}. Repeat that run's "
                "settings to resume it, or delete the folder to start from the beginning"
            )
        for part in self._files():
            end = sum(len(line) for _, line in self._lines(part))
            if end < part.stat().st_size:
                os.truncate(part, end)

    def append(self, rank: int, rows: Sequence[int], records: Sequence[Record]) -> None:
        """Add the answers of a batch.

        Args:
            rank: this process.
            rows: the requests' indices in the input.
            records: their answers.
        """
        line = json.dumps([rows, records]) + "\n"
        with (self.folder / f"part-{rank}.jsonl").open("ab") as file:
            file.write(line.encode())

    def answered(self) -> set[int]:
        """Return the indices of the answered requests."""
        return set(self._locations())

    def records(self) -> Iterator[Record]:
        """Yield all answers in the order of the input."""
        last, batch = None, []
        for _, location in sorted(self._locations().items()):
            if location[:2] != last:  # the requests of a batch are neighbours in the input, so each line is read once
                with location.file.open("rb") as file:
                    file.seek(location.offset)
                    _, batch = json.loads(file.readline())
                last = location[:2]
            yield batch[location.batch_index]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _locations(self) -> dict[int, _Location]:
        return {
            row: _Location(part, offset, index)
            for part in self._files()
            for offset, line in self._lines(part)
            for index, row in enumerate(json.loads(line)[0])
        }

    @staticmethod
    def _lines(part: Path) -> Iterator[tuple[int, bytes]]:
        """Yield offset and content of each complete line."""
        offset = 0
        with part.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield offset, line
                offset += len(line)
