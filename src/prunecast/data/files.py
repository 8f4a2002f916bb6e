"""Files into frames: a CSV or Parquet file becomes float64 columns over a time index; whatever is wrong is named.

T rows, N columns. Row 1 in a message is the first after the header.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prunecast.data.calendar import Times, frequency_of
from prunecast.errors import UserError, near

MAX_CELLS = 500_000_000
"""A file that unfolds into more numbers is refused: a small Parquet file can hold billions of equal values."""

TIME_NAMES = frozenset({"date", "datetime", "date_time", "time", "timestamp", "time_stamp", "utc_timestamp", "ds"})
"""Column names that mean time, whatever their case."""

_PARQUET_MAGIC = b"PAR1"
_DELIMITERS = (",", ";", "\t")
_DECIMAL_COMMA = re.compile(rb"(?:^|[;\t])\s*[+-]?\d+,\d+\s*(?=[;\t\r\n]|$)", re.MULTILINE)

# seconds since 1970 and their fractions, told apart by their size: dates from 1973 on, until 5138
_EPOCH_UNITS: tuple[tuple[float, float, Literal["s", "ms", "us", "ns"]], ...] = (
    (1e8, 1e11, "s"),
    (1e11, 1e14, "ms"),
    (1e14, 1e17, "us"),
    (1e17, 1e20, "ns"),
)

_FIRST_DAY, _LAST_DAY = np.datetime64("1677-09-22"), np.datetime64("2262-04-11")  # whole days within nanoseconds


@dataclass(frozen=True, eq=False)
class Table:
    """The columns of a file or a data frame as they stand in it, nothing yet read as a time or a number.

    Attributes:
        name: of the file, without its folder.
        sha256: of its content.
        columns: a pyarrow table; names without blanks around them.
    """

    name: str
    sha256: str
    columns: pa.Table


def read_table(path: Path) -> Table:
    """Reads a CSV or Parquet file; the content decides which it is.

    Raises:
        UserError: when it cannot be read or is neither.
    """
    content = read_content(path)
    return parsed(content, path.name, hashlib.sha256(content).hexdigest())


def table_of(frame: pd.DataFrame, name: str = "table.parquet") -> Table:
    """Returns the columns of a data frame as its Parquet file would hold them; nothing is written.

    Raises:
        UserError: when it has no rows.
    """
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    content = file.getvalue()
    return parsed(content, name, hashlib.sha256(content).hexdigest())


def read_content(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        UserError: when there is no such file, it is a directory, empty, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory, expected a CSV or Parquet file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not content.strip():
        raise UserError(f"{path}: is empty, expected a CSV or Parquet file")
    return content


def parsed(content: bytes, name: str, sha256: str) -> Table:
    """Returns the columns that a file's bytes hold.

    Raises:
        UserError: naming the file, when the bytes are neither CSV nor Parquet, or hold no rows.
    """
    columns = _parse_parquet(content, name) if content.startswith(_PARQUET_MAGIC) else _parse_csv(content, name)
    if columns.num_rows == 0:
        raise UserError(f"{name}: has no rows")
    return Table(name, sha256, columns.rename_columns([column.strip() for column in columns.column_names]))


def frame_of(
    table: Table, time_column: str | None = None, wanted: Sequence[str] | re.Pattern[str] | None = None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Returns the times and numbers of a table, and what is wrong about them.

    Args:
        table: with one column of times.
        time_column: its name; found by itself when absent.
        wanted: which columns to take, in this order, or what their whole names match; all others when absent.

    Returns:
        A frame of float64 columns in raw units, NaN where missing or unreadable; its index is the times in nanoseconds
        without a zone (those with one are turned into UTC), NaT where unreadable. Then the problems, one line each: the
        frame may only be used when there is none.
    """
    columns, names = table.columns, list(table.columns.column_names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:  # no column can be told by its name, not even the one with the times
        return _frame(_no_times(columns), [], []), tuple(f"column {name!r} stands twice" for name in twice)
    time_name, times, time_problems = _times_of(columns, time_column)
    chosen, choice_problems = _chosen(names, time_name, wanted)
    numbers = [_numbers(name, columns.column(name)) for name in chosen]
    problems = (*time_problems, *choice_problems, *(problem for _, problem in numbers if problem))
    return _frame(times, chosen, [values for values, _ in numbers]), problems


def _frame(times: Times, names: list[str], columns: list[NDArray[np.float64]]) -> pd.DataFrame:
    values_TN = np.stack(columns, axis=1) if columns else np.empty((len(times), 0))
    return pd.DataFrame(values_TN, index=pd.DatetimeIndex(times), columns=pd.Index(names, dtype=object))


def missing_of(table: Table, names: Sequence[str]) -> tuple[int, ...]:
    """Returns how many values each of some columns lacks; unreadable ones are not missing."""
    return tuple(_count_missing(table.columns.column(name)) for name in names)


# Bytes into columns


def _parse_parquet(content: bytes, name: str) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        if file.metadata.num_rows * file.metadata.num_columns > MAX_CELLS:
            raise UserError(f"{name}: has more than {MAX_CELLS} values")
        return file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: not a whole Parquet file: {_first_line(error)}") from None


def _parse_csv(content: bytes, name: str) -> pa.Table:
    header, newline, _ = _text(content, name).strip().partition("\n")
    if not newline:
        raise UserError(f"{name}: has no rows")
    delimiter = max(_DELIMITERS, key=header.count)
    decimal = "," if delimiter != "," and _DECIMAL_COMMA.search(content) else "."
    try:
        return pa.csv.read_csv(
            pa.BufferReader(content),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter),
            convert_options=pa.csv.ConvertOptions(decimal_point=decimal, strings_can_be_null=True),
        )
    except pa.ArrowException as error:
        raise UserError(f"{name}: not a well-formed CSV file: {_first_line(error)}") from None


def _text(content: bytes, name: str) -> str:
    if b"\0" in content[:65536]:
        raise UserError(f"{name}: neither CSV nor Parquet: it holds binary data")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"found byte 0x{content[error.start]:02x} at position {error.start}"
        raise UserError(f"{name}: neither CSV in UTF-8 nor Parquet: {found}; save it as UTF-8") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


# Which column is what


def _chosen(
    names: list[str], time_name: str | None, wanted: Sequence[str] | re.Pattern[str] | None
) -> tuple[list[str], list[str]]:
    """Returns the columns of numbers to take, and what is wrong about them."""
    others = [name for name in names if name != time_name]
    if isinstance(wanted, re.Pattern):
        return [name for name in others if wanted.fullmatch(name)], []
    if wanted is not None:
        absent = [name for name in wanted if name not in others]
        problems = [
            f"column {name!r} is missing; {near(name, others) if others else 'there is none'}" for name in absent
        ]
        return [name for name in wanted if name in others], problems
    if "" in others:
        return [name for name in others if name], [f"column {names.index('') + 1} has no name; name it or leave it out"]
    return others, [] if others else ["has no column of numbers beside the times"]


def _times_of(columns: pa.Table, time_column: str | None) -> tuple[str | None, Times, list[str]]:
    """Returns the name of the column with the times, the times, and what is wrong about them."""
    try:
        name = _find_time_column(columns, time_column)
    except UserError as error:
        return None, _no_times(columns), [str(error)]
    times = _parse_times(columns.column(name))
    unreadable = np.flatnonzero(np.isnat(times))
    if unreadable.size == 0:
        return name, times, []
    row = int(unreadable[0])
    found = columns.column(name)[row].as_py()
    return name, times, [_at(name, row, f"expected a date or time, found {_shown(found)}")]


def _find_time_column(columns: pa.Table, time_column: str | None) -> str:
    """Returns the column that is asked for, else the first that is called after time, else the first that reads so.

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
        if not _is_number(columns.schema.field(name).type) and not np.isnat(_parse_times(columns.column(name))).any():
            return name
    listed = ", ".join(repr(name) for name in names[:8])
    raise UserError(f"has no time column: expected one called 'date' or 'time', or one of dates; found {listed}")


def _no_times(columns: pa.Table) -> Times:
    return np.full(columns.num_rows, "NaT", dtype="datetime64[ns]")


def _at(name: str, row: int, problem: str) -> str:
    return f"column {name!r}, row {row + 1}: {problem}"


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]


# Times


def _parse_times(column: pa.ChunkedArray) -> Times:
    """Returns the times of a column, in UTC where they have a zone; NaT for whatever is not a time.

    Dates and times of any common form are read, also day before month; numbers as seconds (or milli-, micro- or
    nanoseconds, by their size) since 1970.
    """
    if _is_number(column.type):
        return _from_epoch(_as_float(column))
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _from_arrow(column)
    if _is_text(column.type):
        return _from_text(column.to_pandas())
    return np.full(len(column), "NaT", dtype="datetime64[ns]")


def _from_arrow(column: pa.ChunkedArray) -> Times:
    zone = getattr(column.type, "tz", None)
    try:
        nanoseconds = column.cast(pa.timestamp("ns", tz=zone)).cast(pa.int64())
    except pa.ArrowInvalid:  # a year that nanoseconds cannot hold
        return np.full(len(column), "NaT", dtype="datetime64[ns]")
    # NaT is the smallest whole number there is
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


def _from_epoch(numbers: NDArray[np.float64]) -> Times:
    largest = np.nanmax(np.abs(numbers), initial=0.0)
    unit = next((unit for low, high, unit in _EPOCH_UNITS if low <= largest < high), None)
    if unit is None:
        return np.full(len(numbers), "NaT", dtype="datetime64[ns]")
    return _nanoseconds(pd.to_datetime(numbers, unit=unit, errors="coerce").to_numpy())


def _nanoseconds(times: Times) -> Times:
    """Returns times of any unit in nanoseconds, NaT for those that nanoseconds cannot hold."""
    held = (times >= _FIRST_DAY) & (times < _LAST_DAY)
    return np.where(held, times, np.datetime64("NaT")).astype("datetime64[ns]")


# Numbers


def _numbers(name: str, column: pa.ChunkedArray) -> tuple[NDArray[np.float64], str | None]:
    """Returns a column's values, NaN where there is none, and what is wrong with it."""
    if _is_number(column.type):
        values = _as_float(column)
        infinite = np.flatnonzero(np.isinf(values))
        return values, _at(name, int(infinite[0]), "expected a finite number, found inf") if infinite.size else None
    if not _is_text(column.type):
        return np.full(len(column), np.nan), f"column {name!r}: expected numbers, found {column.type}"
    texts = column.to_pandas()
    values = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    unreadable = np.flatnonzero(np.isnan(values) & texts.notna().to_numpy())
    if unreadable.size == 0:
        return values, None
    row = int(unreadable[0])
    return values, _at(name, row, f"expected a number, found {_shown(texts.iloc[row])}")


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(check(kind) for check in checks)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _as_float(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _count_missing(column: pa.ChunkedArray) -> int:
    not_a_number = int(np.isnan(_as_float(column)).sum()) if _is_number(column.type) else 0
    return max(not_a_number, int(column.null_count))
