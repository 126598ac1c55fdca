"""The command ``prepare``: read, check, report, write."""

import json
import logging
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from atspeed.data import InteractionSource
from atspeed.data.fingerprint import fingerprint
from atspeed.data.writers import DatasetWriter, PreparedWriter
from atspeed.decoding.constructor_arguments import constructor_arguments
from atspeed.preparation.data_report import DataReport, describe
from atspeed.preparation.data_tables import tables_of
from atspeed.provenance import provenance
from atspeed.terminal import show

log = logging.getLogger(__name__)


class Preparation:
    """Reads a data set, checks it, writes it in another format, and reports what is in it.

    The folder appears when everything is in it, or not at all. Rerunning with an unchanged data set skips the writing.

    Args:
        out: the folder to write. ``report/report.json`` and ``report/report.png`` in it get the report.
        writer: the format; by default what the source ``Prepared`` reads.
    """

    def __init__(self, out: Path, writer: DatasetWriter | None = None) -> None:
        self.out = Path(out)
        self.writer = writer or PreparedWriter()

    def run(self, source: InteractionSource) -> None:
        """Read the data set of a source, write it, and print the report.

        Raises:
            ValueError: if the content of the data set is wrong, or the folder has other content.
        """
        written = self._written()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        dataset = replace(source.load(), origin={**settings_of(source), "read": started})
        report = describe(dataset, fingerprint(dataset), settings_of(self.writer)["class_path"])
        if written is not None:
            if (written["fingerprint"], written["writer"]) != (report.fingerprint, report.writer):
                raise ValueError(f"out {str(self.out)!r} holds another data set; name another folder, or delete it")
            log.info("%s holds this data set already: nothing is written", self.out)
            return
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{self.out.name}.partial-", dir=self.out.parent) as temporary:
            folder = Path(temporary) / "folder"  # not the temporary one, which nobody else may read
            folder.mkdir()
            self.writer.write(dataset, folder)
            write_report(report, folder / "report")
            os.replace(folder, self.out)
        show(*tables_of(report), f"written to {self.out}")

    def _written(self) -> dict[str, Any] | None:
        """Return the report of what the folder holds already; None if there is nothing.

        Raises:
            ValueError: if it is not empty and nothing that this command wrote.
        """
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return None
        try:
            report = json.loads((self.out / "report" / "report.json").read_text())
            return {"fingerprint": report["fingerprint"], "writer": report["writer"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"out {str(self.out)!r} exists and was not written by prepare; name another folder, or delete it"
            ) from error


def settings_of(part: object) -> dict[str, Any]:
    """Return the class of a source, a writer or a part of one, and its settings, ready for JSON."""
    cls = type(part)
    arguments = constructor_arguments(part)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": _for_json(arguments)}


def _for_json(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _for_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(each) for each in value]
    return settings_of(value)


def write_report(report: DataReport, folder: Path) -> None:
    """Write ``report.json`` and ``report.png``."""
    from atspeed.panels import save_figure  # matplotlib: only where it draws, not in every command
    from atspeed.preparation.data_figure import draw_report

    save_figure(draw_report(report), folder / "report.png")
    record = {"environment": provenance(), **asdict(report)}
    (folder / "report.json").write_text(json.dumps(record, indent=2) + "\n")
