"""Named columns of CSV, TSV, JSON lines and Parquet files."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from atspeed.data.sources.cell_values import Column, seconds
from atspeed.data.sources.text_files import read_lines, require_file

BLOCK_BYTES = 1 << 24
NUM_TRIED = 1000
"""JSON records that are looked at to know the fields."""


class TableFile(ABC):
    """A file with named columns.

    Args:
        file: its path.

    Raises:
        FileNotFoundError: if it is missing.
    """

    def __init__(self, file: Path) -> None:
        require_file(file, "a table of interactions or items")
        self.file = file

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Names of the columns."""

    @abstractmethod
    def read(self, columns: Sequence[Column]) -> pa.Table:
        """Return columns as they are, unchecked and fast.

        Raises:
            pa.ArrowException: if that does not work; so do ``ValueError`` and ``OSError``.
        """

    @abstractmethod
    def rows(self, columns: Sequence[Column]) -> Iterator[tuple[range, Any]]:
        """Yield the line numbers (of Parquet: the row number), from 1, and the content of each row, one by one."""

    @abstractmethod
    def cells(self, row: Any) -> Mapping[str, Any]:
        """Return the content of a row by column; raise ValueError with the fault if it cannot be read."""

    def may_have(self, name: str) -> bool:
        """Whether there can be a column of this name."""
        return name in self.names


def open_table(file: Path) -> TableFile:
    """Return a file of a format that its suffix tells.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if the suffix is another one.
    """
    match file.name.removesuffix(".gz").rpartition(".")[2]:
        case "csv":
            return DelimitedFile(file, ",")
        case "tsv":
            return DelimitedFile(file, "\t")
        case "json" | "jsonl":
            return JsonLinesFile(file)
        case "parquet" if file.suffix == ".parquet":
            return ParquetFile(file)
    raise ValueError(f"{file}: expected .csv, .tsv, .jsonl, .json (all of them also with .gz) or .parquet")


class DelimitedFile(TableFile):
    """A header and a line per row, UTF-8; values with delimiters, quotes or line ends stand in double quotes.

    Args:
        file: its path; ``*.gz`` is compressed.
        delimiter: what stands between two values.
    """

    def __init__(self, file: Path, delimiter: str) -> None:
        super().__init__(file)
        self.delimiter = delimiter

    @cached_property
    def header(self) -> Sequence[str]:
        """Values of the first line."""
        for _, header in self._records():
            if isinstance(header, csv.Error):
                raise ValueError(f"{self.file}: the header cannot be read: {header}")
            return header
        raise ValueError(f"{self.file} is empty; expected a header")

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return self.header

    def read(self, columns: Sequence[Column]) -> pa.Table:
        """Return columns of strings."""
        names = [column.name for column in columns]
        table = pyarrow.csv.read_csv(
            self.file,
            pyarrow.csv.ReadOptions(column_names=self.names, skip_rows=1, block_size=BLOCK_BYTES),
            pyarrow.csv.ParseOptions(delimiter=self.delimiter),
            pyarrow.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
        if table.num_rows + 1 != count_lines(self.file):  # Arrow takes what follows an unclosed quote for one value
            raise ValueError("some values have line ends, or some lines are blank")
        return table

    def rows(self, columns: Sequence[Column]) -> Iterator[tuple[range, list[str] | csv.Error]]:
        """Yield the values of each line after the header."""
        return islice(self._records(), 1, None)

    def cells(self, row: list[str] | csv.Error) -> Mapping[str, str]:
        """Name the values."""
        if isinstance(row, csv.Error):
            raise ValueError(f"{row} (is there a quote that is not closed?)")
        if len(row) != len(self.names):
            raise ValueError(f"{len(row)} values; expected {len(self.names)}, as in the header")
        return dict(zip(self.names, row, strict=True))

    def _records(self) -> Iterator[tuple[range, list[str] | csv.Error]]:
        numbers: list[int] = []  # of the lines of a row

        def lines() -> Iterator[str]:
            for number, line in read_lines(self.file):
                numbers.append(number)
                yield f"{line}\n"

        reader = csv.reader(lines(), delimiter=self.delimiter, strict=True)
        while True:
            numbers.clear()
            try:
                row: list[str] | csv.Error = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                row = error
            yield range(numbers[0], numbers[-1] + 1), row


class JsonLinesFile(TableFile):
    """A JSON object per line, UTF-8; ``*.gz`` is compressed. A record may lack a field."""

    @cached_property
    def _tried(self) -> Mapping[str, Any]:
        """The fields of the first records, each with its first value."""
        values: dict[str, Any] = {}
        fault = "there is none"
        for number, line in islice(read_lines(self.file), NUM_TRIED):
            try:
                values = {**self.cells(line), **values}
            except ValueError as error:
                fault = f"line {number}: {error}"
        if not values:
            raise ValueError(f"{self.file}: expected JSON objects with names and values, one per line; {fault}")
        return values

    @property
    def names(self) -> Sequence[str]:
        """Names of the fields."""
        return list(self._tried)

    def may_have(self, name: str) -> bool:
        """Any record may have any field."""
        return True

    def read(self, columns: Sequence[Column]) -> pa.Table:
        """Return columns of floats, integers or strings."""
        schema = {column.name: column.type for column in columns}
        for name, type_ in schema.items():
            if type_ == pa.string() and isinstance(self._tried.get(name), int):
                schema[name] = pa.int64()
        return pyarrow.json.read_json(
            self.file,
            pyarrow.json.ReadOptions(block_size=BLOCK_BYTES),
            pyarrow.json.ParseOptions(explicit_schema=pa.schema(schema), unexpected_field_behavior="ignore"),
        )

    def rows(self, columns: Sequence[Column]) -> Iterator[tuple[range, str]]:
        """Yield the lines."""
        for number, line in read_lines(self.file):
            yield range(number, number + 1), line

    def cells(self, row: str) -> Mapping[str, Any]:
        """Parse a line."""
        try:
            record = json.loads(row)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"expected a JSON object, not {row[:60]!r}")
        return record


class ParquetFile(TableFile):
    """A Parquet file."""

    @cached_property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        return self._open().schema_arrow.names

    def read(self, columns: Sequence[Column]) -> pa.Table:
        """Return columns of any type."""
        return self._open().read(columns=[column.name for column in columns])

    def rows(self, columns: Sequence[Column]) -> Iterator[tuple[range, Mapping[str, Any]]]:
        """Yield the rows; dates as seconds since 1970."""
        done = 0
        batches = self._open().iter_batches(columns=[column.name for column in columns])
        try:
            for batch in batches:
                table = pa.table({name: seconds(batch[name]) for name in batch.schema.names})
                for number, row in enumerate(table.to_pylist(), start=done + 1):
                    yield range(number, number + 1), row
                done += len(table)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: damaged after row {done}: {error}") from error

    def cells(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the row."""
        return row

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.file)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.file}: not a Parquet file, or damaged: {error}") from error


def count_lines(file: Path) -> int:
    """Return the number of lines; ``*.gz`` is decompressed."""
    count, last = 0, b"\n"
    with pa.input_stream(str(file)) as stream:
        while block := stream.read(BLOCK_BYTES):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")
