"""Columns of a file with checked values: fast, or line by line where the fast way fails."""

import logging
from collections.abc import Iterator, Mapping
from itertools import islice

import pyarrow as pa

from atspeed.data.sources.cell_values import Column
from atspeed.data.sources.table_files import TableFile
from atspeed.data.sources.text_files import MalformedLines

log = logging.getLogger(__name__)

CHUNK_ROWS = 1 << 16


def read_columns(table: TableFile, columns: Mapping[str, Column], malformed: MalformedLines) -> pa.Table:
    """Return columns of a file, each by its key.

    Arrow reads and checks complete columns. Where it finds a fault, which it seldom can locate, or gives up, the file
    is read again line by line, which takes some ten times as long.

    Args:
        table: the file.
        columns: the columns to read.
        malformed: refuses or counts lines that cannot be read.

    Raises:
        ValueError: if the file lacks a column or is damaged, or if a line cannot be read and must not be skipped.
    """
    for column in columns.values():
        count = table.names.count(column.name)
        if count > 1 or (count == 0 and not (column.optional and table.may_have(column.name))):
            raise ValueError(
                f"{table.file} has {'two columns' if count else 'no column'} {column.name!r}; it has "
                f"{', '.join(map(repr, table.names))}" + (f"; see {column.setting}" if column.setting else "")
            )
    try:
        found = table.read(list(columns.values()))
        return pa.table({key: column.convert(found[column.name]) for key, column in columns.items()})
    except (pa.ArrowException, ValueError, OSError) as error:
        log.debug("%s: reading line by line: %s", table.file, error)
    schema = pa.schema({key: column.type for key, column in columns.items()})
    rows = _parsed_rows(table, columns, malformed)
    chunks = []
    while chunk := list(islice(rows, CHUNK_ROWS)):
        values = map(pa.array, zip(*chunk, strict=True), schema.types)
        chunks.append(pa.table(list(values), schema=schema))
    return pa.concat_tables(chunks) if chunks else schema.empty_table()


def _parsed_rows(
    table: TableFile, columns: Mapping[str, Column], malformed: MalformedLines
) -> Iterator[list[str | float | None]]:
    for numbers, row in table.rows(list(columns.values())):
        try:
            cells = table.cells(row)
            values = [column.parse(cells.get(column.name)) for column in columns.values()]
        except ValueError as error:
            for number in numbers:
                malformed.report(table.file, number, str(error))
        else:
            yield values
