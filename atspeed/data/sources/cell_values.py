"""What a column of a user's file may hold, checked for many cells at once or for one cell with the fault's name."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

LONGEST_SHOWN = 60
"""Most characters of a value that a message repeats."""


@dataclass(frozen=True)
class Column:
    """A column of a user's file.

    Attributes:
        name: its name in the file.
        type: of its values: ``pa.string()`` (text or whole numbers) or ``pa.float64()`` (finite numbers; dates become
            seconds since 1970).
        optional: whether a value may be missing: null, empty text or, among numbers, NaN.
        allowed: the values there are; any if empty.
        setting: what names the column; None: the format.
    """

    name: str
    type: pa.DataType
    optional: bool = False
    allowed: tuple[str, ...] = ()
    setting: str | None = None

    def convert(self, values: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return values of this type; missing ones are null.

        Raises:
            ValueError: if one of them is not allowed; :meth:`parse` says what is wrong with it.
        """
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        fits = types.is_integer, _is_text, *((types.is_floating, _is_date) if self._is_number else ())
        if not any(fit(values.type) for fit in fits):
            raise ValueError(f"{self.name} has values of type {values.type}")
        if _is_text(values.type):
            values = pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
        values = seconds(values).cast(self.type)
        if self._is_number:
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, self.type), values)
        values.validate(full=True)  # JSON may hold bytes that are not UTF-8
        if values.null_count and not self.optional:
            raise ValueError(f"{self.name} is missing")
        if self._is_number and pc.any(pc.is_inf(values)).as_py():
            raise ValueError(f"{self.name} is infinite")
        if self.allowed and not pc.all(pc.is_in(values, pa.array(self.allowed))).as_py():
            raise ValueError(f"{self.name} has other values")
        return values

    def parse(self, value: Any) -> str | float | None:
        """Return one value; None if it is missing.

        Raises:
            ValueError: if it is not allowed.
        """
        parsed = self._number(value) if self._is_number else self._text(value)
        if parsed is None and not self.optional:
            raise ValueError(f"{self.name} is missing; expected {self._expected}")
        return parsed

    @cached_property
    def _is_number(self) -> bool:
        return types.is_floating(self.type)

    @property
    def _expected(self) -> str:
        if self.allowed:
            return " or ".join(self.allowed)
        return "a number" if self._is_number else "text or a whole number"

    def _fault(self, value: Any) -> ValueError:
        return ValueError(f"{self.name} is {repr(value)[:LONGEST_SHOWN]}; expected {self._expected}")

    def _number(self, value: Any) -> float | None:
        if value is None or value == "":
            return None
        if type(value) not in (str, int, float):
            raise self._fault(value)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self._fault(value) from None
        if math.isinf(number):
            raise self._fault(value)
        return None if math.isnan(number) else number

    def _text(self, value: Any) -> str | None:
        if value is None or value == "":
            return None
        if type(value) not in (str, int):
            raise self._fault(value)
        text = str(value)
        if (self.allowed and text not in self.allowed) or not _is_unicode(text):
            raise self._fault(value)
        return text


def seconds(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates as seconds since 1970; other values as they are."""
    if not _is_date(values.type):
        return values
    microseconds = pa.timestamp("us", tz=getattr(values.type, "tz", None))
    return pc.divide(values.cast(microseconds, safe=False).cast(pa.int64()), 1e6)


def _is_date(found: pa.DataType) -> bool:
    return types.is_timestamp(found) or types.is_date(found)


def _is_text(found: pa.DataType) -> bool:
    return types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
        return False
    return True
