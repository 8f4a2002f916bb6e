"""Tables into numbers: one column of times, all others numeric; everything that is wrong is named.

T rows, N columns. Row 1 is the first after the header.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from prunecast.data.calendar import Times, frequency_of
from prunecast.errors import UserError, near

TIME_NAMES = frozenset({"date", "datetime", "date_time", "time", "timestamp", "time_stamp", "utc_timestamp", "ds"})
"""Column names that mean time, whatever their case."""

_EPOCH_UNITS: tuple[tuple[float, float, Literal["s", "ms", "us", "ns"]], ...] = (
    (1e8, 1e11, "s"),
    (1e11, 1e14, "ms"),
    (1e14, 1e17, "us"),
    (1e17, 1e20, "ns"),
)

_FIRST_DAY, _LAST_DAY = np.datetime64("1677-09-22"), np.datetime64("2262-04-11")  # whole days within nanoseconds


@dataclass(frozen=True, eq=False)
class Frame:
    """Times and numbers, with what is wrong about them.

    Attributes:
        times: (T,) without a zone; times with one are turned into UTC; NaT where unreadable.
        names: of the columns.
        values_TN: NaN where missing or unreadable.
        missing: count of missing values per column.
        problems: one line each; values may only be used when there is none.
    """

    times: Times
    names: tuple[str, ...]
    values_TN: NDArray[np.float64]
    missing: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()


def to_frame(columns: pa.Table, time_column: str | None = None, wanted: Sequence[str] | None = None) -> Frame:
    """Returns the times and numbers of a table.

    Args:
        columns: a table with a time column.
        time_column: its name; found by itself when absent.
        wanted: which columns to take, in this order; all others when absent.
    """
    names = [name.strip() for name in columns.column_names]
    problems = [f"column {name!r} stands twice" for name in sorted(set(names)) if names.count(name) > 1]
    columns = columns.rename_columns(names)
    if problems:
        return Frame(_no_times(columns), (), np.empty((columns.num_rows, 0)), problems=tuple(problems))
    time_name, times, time_problems = _times_of(columns, time_column)
    chosen, choice_problems = _chosen(names, time_name, wanted)
    parsed = [_numbers(name, columns.column(name)) for name in chosen]
    number_problems = [problem for _, problem in parsed if problem]
    return Frame(
        times,
        tuple(chosen),
        np.stack([values for values, _ in parsed], axis=1) if parsed else np.empty((columns.num_rows, 0)),
        tuple(_count_missing(columns.column(name)) for name in chosen),
        (*time_problems, *choice_problems, *number_problems),
    )


def _times_of(columns: pa.Table, time_column: str | None) -> tuple[str | None, Times, list[str]]:
    try:
        name = find_time_column(columns, time_column)
    except UserError as error:
        return None, _no_times(columns), [str(error)]
    times = parse_times(columns.column(name))
    unreadable = np.flatnonzero(np.isnat(times))
    if unreadable.size == 0:
        return name, times, []
    row = int(unreadable[0])
    found = columns.column(name)[row].as_py()
    return name, times, [f"column {name!r}, row {row + 1}: expected a date or time, found {_shown(found)}"]


def _no_times(columns: pa.Table) -> Times:
    return np.full(columns.num_rows, "NaT", dtype="datetime64[ns]")


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]


def _chosen(names: list[str], time_name: str | None, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    others = [name for name in names if name != time_name]
    if wanted is not None:
        absent = [name for name in wanted if name not in others]
        problems = [
            f"column {name!r} is missing; {near(name, others) if others else 'there is none'}" for name in absent
        ]
        return [name for name in wanted if name in others], problems
    if "" in others:
        return [name for name in others if name], [f"column {names.index('') + 1} has no name; name it or leave it out"]
    return others, [] if others else ["has no column of numbers beside the times"]


def find_time_column(columns: pa.Table, time_column: str | None = None) -> str:
    """Returns the name of the column that holds the times.

    It is the one that is asked for, else the first that is called after time, else the first that reads as times.

    Raises:
        UserError: when there is none.
    """
    names: list[str] = columns.column_names
    if time_column is not None:
        if time_column not in names:
            raise UserError(f"time column {time_column!r} is missing; {near(time_column, names)}")
        return time_column
    named = [name for name in names if name.casefold() in TIME_NAMES]
    if named:
        return named[0]
    for name in names:
        if not _is_number(columns.schema.field(name).type) and not np.isnat(parse_times(columns.column(name))).any():
            return name
    listed = ", ".join(repr(name) for name in names[:8])
    raise UserError(f"has no time column: expected one called 'date' or 'time', or one of dates; found {listed}")


def parse_times(column: pa.ChunkedArray) -> Times:
    """Returns the times of a column, in UTC where they have a zone; NaT for whatever is not a time.

    Dates and times of any common form are read, also day before month; numbers as seconds (or milli-, micro- or
    nanoseconds, by their size) since 1970.
    """
    if _is_number(column.type):
        return _epoch(_as_float(column))
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _from_arrow(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _from_text(column.to_pandas())
    return np.full(len(column), "NaT", dtype="datetime64[ns]")


def _from_arrow(column: pa.ChunkedArray) -> Times:
    zone = getattr(column.type, "tz", None)
    try:
        nanoseconds = column.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64())
    except pa.ArrowInvalid:  # a year that nanoseconds cannot hold
        return np.full(len(column), "NaT", dtype="datetime64[ns]")
    filled = nanoseconds.fill_null(np.iinfo(np.int64).min)
    return np.asarray(filled.to_numpy()).view("datetime64[ns]")


def _from_text(texts: pd.Series[str]) -> Times:
    """Reads by the form of the first cell; of the forms that fit it, the one that gives the most regular times wins."""
    first = next((text for text in texts if isinstance(text, str)), "")
    readings = [_read_as(texts, form) for form in dict.fromkeys(["ISO8601", *_guessed_forms(first)])]
    return min(readings, key=_disorder)


def _guessed_forms(text: str) -> list[str]:
    orders = (True,) if "." in text else (False, True)  # 01.02.2020 is the first of February, 01/02/2020 may be either
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that an order does not fit, which is what is found out here
        guesses = [pd.tseries.api.guess_datetime_format(text, dayfirst=order) for order in orders]
    return [guess for guess in guesses if guess is not None]


def _disorder(times: Times) -> tuple[int, int, bool]:
    unreadable, backward = int(np.isnat(times).sum()), int((np.diff(times) <= np.timedelta64(0)).sum())
    return unreadable, backward, unreadable + backward > 0 or frequency_of(times) is None


def _read_as(texts: pd.Series[str], form: str) -> Times:
    read = pd.to_datetime(texts, format=form, utc=True, errors="coerce")
    return _nanoseconds(read.dt.tz_localize(None).to_numpy())


def _epoch(numbers: NDArray[np.float64]) -> Times:
    largest = np.nanmax(np.abs(numbers), initial=0.0)
    unit = next((unit for low, high, unit in _EPOCH_UNITS if low <= largest < high), None)
    if unit is None:
        return np.full(len(numbers), "NaT", dtype="datetime64[ns]")
    return _nanoseconds(pd.to_datetime(numbers, unit=unit, errors="coerce").to_numpy())


def _nanoseconds(times: Times) -> Times:
    """Returns times of any unit in nanoseconds, NaT for those that nanoseconds cannot hold."""
    held = (times >= _FIRST_DAY) & (times < _LAST_DAY)
    return np.where(held, times, np.datetime64("NaT")).astype("datetime64[ns]")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def _as_float(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _numbers(name: str, column: pa.ChunkedArray) -> tuple[NDArray[np.float64], str | None]:
    """Returns a column's values, NaN where there is none, and what is wrong with it."""
    if _is_number(column.type):
        values = _as_float(column)
        infinite = np.flatnonzero(np.isinf(values))
        return values, _at(name, int(infinite[0]), "expected a finite number, found inf") if infinite.size else None
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return np.full(len(column), np.nan), f"column {name!r}: expected numbers, found {column.type}"
    texts = column.to_pandas()
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unreadable = np.flatnonzero(np.isnan(values) & texts.notna().to_numpy())
    if unreadable.size == 0:
        return values, None
    row = int(unreadable[0])
    return values, _at(name, row, f"expected a number, found {_shown(texts.iloc[row])}")


def _at(name: str, row: int, problem: str) -> str:
    return f"column {name!r}, row {row + 1}: {problem}"


def _count_missing(column: pa.ChunkedArray) -> int:
    not_a_number = int(np.isnan(_as_float(column)).sum()) if _is_number(column.type) else 0
    return max(not_a_number, int(column.null_count))
