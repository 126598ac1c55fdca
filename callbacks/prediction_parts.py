"""Predictions on disk while they are being made."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from atspeed.files import write_whole

Record = dict[str, Any]


class _Place(NamedTuple):
    file: Path
    offset: int
    position: int


class PredictionParts:
    """A folder of answered requests, from which an interrupted run goes on.

    ``part-<rank>.jsonl`` gets a line a batch, ``[rows, records]``, where a row is a request's place in the input. Each
    line is written at once; a killed process leaves one line without its end at most, which :meth:`prepare` cuts off.
    ``settings.json`` names what the answers depend on.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, settings: dict[str, str]) -> None:
        """Make the folder, or get it ready to go on; one process calls this.

        Args:
            settings: what the answers depend on.

        Raises:
            ValueError: if the folder holds answers that depend on something else.
        """
        file = self.folder / "settings.json"
        if not file.is_file():  # killed before there was an answer
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_whole(file, lambda partial: partial.write_text(json.dumps(settings, indent=2) + "\n"))
            return
        found = json.loads(file.read_text())
        changed = [name for name in found | settings if found.get(name) != settings.get(name)]
        if changed:
            was = "; ".join(f"{name} was {found.get(name)} and is {settings.get(name)}" for name in changed)
            raise ValueError(
                f"{self.folder} holds the answers of an interrupted run with other settings: {was}. Repeat that run's "
                "settings to go on with it, or delete the folder to start anew"
            )
        for part in self._files():
            end = sum(len(line) for _, line in self._lines(part))
            if end < part.stat().st_size:
                os.truncate(part, end)

    def append(self, rank: int, rows: Sequence[int], records: Sequence[Record]) -> None:
        """Add the answers of a batch.

        Args:
            rank: this process.
            rows: the requests' places in the input.
            records: their answers.
        """
        line = json.dumps([rows, records]) + "\n"
        with (self.folder / f"part-{rank}.jsonl").open("ab") as file:
            file.write(line.encode())

    def answered(self) -> set[int]:
        """Return the places of the requests that are answered."""
        return set(self._places())

    def records(self) -> Iterator[Record]:
        """Yield all answers in the order of the input."""
        last, batch = None, []
        for _, place in sorted(self._places().items()):
            if place[:2] != last:  # the requests of a batch stand side by side in the input: it is read once
                with place.file.open("rb") as file:
                    file.seek(place.offset)
                    _, batch = json.loads(file.readline())
                last = place[:2]
            yield batch[place.position]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.jsonl"))

    def _places(self) -> dict[int, _Place]:
        return {
            row: _Place(part, offset, position)
            for part in self._files()
            for offset, line in self._lines(part)
            for position, row in enumerate(json.loads(line)[0])
        }

    @staticmethod
    def _lines(part: Path) -> Iterator[tuple[int, bytes]]:
        offset = 0
        with part.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield offset, line
                offset += len(line)
