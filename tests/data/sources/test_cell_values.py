from datetime import date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atspeed.data.sources.cell_values import Column

NAME = Column("user", pa.string())
TIME = Column("timestamp", pa.float64())
RATING = Column("rating", pa.float64(), optional=True)
SPLIT = Column("split", pa.string(), allowed=("train", "test"))
TEXT = st.sampled_from(["", "a", "é", "007", "7", "+7", "-.5", "1e3", "nan", "inf", " 7", "1_0", "train", "test"])
NUMBERS = st.one_of(st.integers(-(2**40), 2**40), st.floats(width=32))


@settings(deadline=None)
@given(
    st.one_of(
        st.lists(TEXT, min_size=1),
        st.lists(st.none() | TEXT, min_size=1),
        st.lists(st.none() | NUMBERS, min_size=1),
        st.lists(st.integers(), min_size=1),
        st.lists(st.booleans(), min_size=1),
        st.lists(st.dates(), min_size=1),
    )
)
def test_many_values_are_read_as_each_alone(values: list[Any]) -> None:
    try:
        array = pa.chunked_array([values])
    except (pa.ArrowException, OverflowError):
        return  # not one type
    for column in (NAME, TIME, RATING, SPLIT):
        try:
            converted = column.convert(array)
        except (pa.ArrowException, ValueError):
            continue  # the file is then read line by line
        if pa.types.is_date(array.type):
            assert converted.to_pylist() == [(day - date(1970, 1, 1)).total_seconds() for day in values]
        else:
            assert converted.to_pylist() == [column.parse(value) for value in values]
            assert converted.type == column.type


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (NAME, pa.array([7, 8]), ["7", "8"]),
        (NAME, pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (NAME, pa.array(["a"], pa.large_string()), ["a"]),
        (TIME, pa.array(["1e3", "-.5"]), [1000, -0.5]),
        (TIME, pa.array([datetime(1970, 1, 2, 0, 0, 0, 500_000)]), [86_400.5]),
        (TIME, pa.array([datetime(1970, 1, 2, tzinfo=timezone(timedelta(hours=1)))]), [82_800]),
        (TIME, pa.array([86_400 * 10**9], pa.timestamp("ns")), [86_400]),
        (RATING, pa.array(["", "4", "nan"]), [None, 4, None]),
        (RATING, pa.array([None, float("nan"), 4.5]), [None, None, 4.5]),
    ],
)
def test_columns_are_converted(column: Column, values: pa.Array, expected: list[Any]) -> None:
    assert column.convert(pa.chunked_array([values])).to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (NAME, "", "user is missing; expected text or a whole number"),
        (NAME, None, "user is missing"),
        (NAME, 7.0, "user is 7.0; expected text or a whole number"),
        (NAME, True, "user is True; expected"),
        (NAME, ["a"], r"user is \['a'\]; expected"),
        (NAME, "\ud800", "user is '.ud800'; expected"),
        (TIME, "", "timestamp is missing; expected a number"),
        (TIME, "nan", "timestamp is missing"),
        (TIME, float("nan"), "timestamp is missing"),
        (TIME, "-inf", "timestamp is '-inf'; expected a number"),
        (TIME, 10**400, "timestamp is 1000*; expected a number"),
        (TIME, "2020-01-01", "timestamp is '2020-01-01'; expected a number"),
        (TIME, False, "timestamp is False; expected a number"),
        (RATING, "good", "rating is 'good'; expected a number"),
        (RATING, float("inf"), "rating is inf; expected a number"),
        (SPLIT, "dev", "split is 'dev'; expected train or test"),
        (SPLIT, None, "split is missing; expected train or test"),
    ],
)
def test_other_values_are_named(column: Column, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        column.parse(value)
    try:
        values = pa.chunked_array([[value]])
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return  # Arrow has no such values
    with pytest.raises((pa.ArrowException, ValueError)):
        column.convert(values)
