"""Tables into frames: float64 columns over a time index; whatever is wrong is named.

T rows, N columns. Row 1 in a message is the first after the header.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from prunecast.data.calendar import distinct_times, grid_of
from prunecast.data.files import TIME_NAMES, Table
from prunecast.data.gaps import in_order, repeats_note
from prunecast.data.numbers import is_text, number_marks, numbers_of
from prunecast.data.times import ReadTimes, looks_like_times, read_times
from prunecast.errors import UserError, near
from prunecast.recipe import ReadOptions
from prunecast.records import Reading

_PARTS = ("year", "month", "day", "hour", "minute", "second")


@dataclass(frozen=True, eq=False)
class Frame:
    """What a table holds.

    Attributes:
        values_TN: float64 columns in raw units, NaN where missing or unreadable; its index is the times in nanoseconds,
            in UTC where they have a zone, NaT where unreadable. It may only be used when there is no problem.
        reading: how it was read.
        time_name: of the column of times, or the columns; empty when there is none.
        missing: how many values each column lacks; unreadable ones are not missing.
        problems: what is wrong, one line each.
        notes: what was mended, one line each.
        time_cell: the first text of the times; None where the file itself holds times.
    """

    values_TN: pd.DataFrame
    reading: Reading
    time_name: str | tuple[str, ...]
    missing: tuple[int, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    time_cell: str | None = None


def frame_of_table(
    table: Table,
    options: ReadOptions,
    wanted: Sequence[str] | re.Pattern[str] | None = None,
    known: Reading | None = None,
) -> Frame:
    """Returns the times and numbers of a table, and what is wrong about them.

    Args:
        table: with times, and numbers beside them.
        options: how it is read.
        wanted: which columns to take, in this order, or what their whole names match; those that the options choose
            when absent.
        known: how a model's own file was read.
    """
    columns = _without_blanks(table.columns)
    try:
        return _frame(columns, table, options, wanted, known)
    except UserError as error:
        return Frame(pd.DataFrame(index=pd.DatetimeIndex([None] * len(columns))), Reading(), "", (), (str(error),))


def _frame(
    columns: pa.Table,
    table: Table,
    options: ReadOptions,
    wanted: Sequence[str] | re.Pattern[str] | None,
    known: Reading | None,
) -> Frame:
    names: list[str] = columns.column_names
    for name, count in Counter(names).items():
        if count > 1:  # no column can be told by its name, not even the one with the times
            raise UserError(f"column {name!r} stands twice")
    time_name, long = _time_column(columns, options), options.series_column
    if long is not None and long not in names:
        raise UserError(f"data.series_column: no column {long!r}; {near(long, names)}")
    columns = _without_blank_rows(columns, options)
    if table.times is not None:
        read = table.times.whole(len(columns))
    else:
        read = read_times(*_time_cells(columns, time_name), options, known)
    others = [name for name in names if name not in (*_listed(time_name), long)]
    chosen, problems = _chosen(others, None if long else wanted, options.drop)
    numbers = columns.select(chosen)
    marks = number_marks(dict(zip(chosen, numbers.columns, strict=True)), table.delimiter, options, known)
    values_TN = np.empty((len(columns), len(chosen)), order="F")  # as pandas keeps it: it makes no copy
    unreadable = []
    for position, name in enumerate(chosen):
        values_TN[:, position], problem = numbers_of(name, numbers.column(name), marks)
        unreadable.append(problem)
    frame = pd.DataFrame(
        values_TN, pd.DatetimeIndex(read.times_T, copy=False), pd.Index(chosen, dtype=object), copy=False
    )
    missing = tuple(column.null_count for column in numbers.columns)
    problems = [*filter(None, [read.problem]), *problems, *filter(None, unreadable)]
    notes = list(read.notes)
    if long is not None and not problems:
        frame, repeats = _pivoted(frame, columns.column(long), wanted, options)
        notes += repeats
        missing = tuple(frame.isna().sum())
    reading = Reading(form=read.form, zone=_zone(read, frame, options), **marks._asdict())
    return Frame(frame, reading, time_name, missing, tuple(problems), tuple(notes), read.cell)


def _without_blank_rows(columns: pa.Table, options: ReadOptions) -> pa.Table:
    """Returns the columns without the rows at their end in which nothing stands, not even a time.

    Raises:
        UserError: when there are some, and they are not to be cut.
    """
    if any(column[-1].is_valid for column in columns.columns):
        return columns
    known = max((np.flatnonzero(pc.is_valid(column)).max(initial=-1) for column in columns.columns), default=-1) + 1
    if known == 0:
        raise UserError("every row is empty")
    if options.tail == "refuse":
        raise UserError(f"row {known + 1} and all after it are empty; set data.tail=cut, or cut them off")
    return columns.slice(0, known)


def _zone(read: ReadTimes, frame: pd.DataFrame, options: ReadOptions) -> str | None:
    """Returns the zone of times; UTC where they are days apart there, and not by the file's clocks."""
    if read.zone is None or options.timezone is not None:
        return read.zone
    times = distinct_times(frame.index.to_numpy())
    if np.isnat(times).any() or grid_of(times, read.zone):
        return read.zone
    return "UTC" if grid_of(times, "UTC") else read.zone


def _without_blanks(columns: pa.Table) -> pa.Table:
    """Returns the columns without those that have neither a name nor a value: a delimiter at the end of each row."""
    blank = [
        n for n, name in enumerate(columns.column_names) if not name and columns.column(n).null_count == len(columns)
    ]
    return columns.select([n for n in range(columns.num_columns) if n not in blank]) if blank else columns


# Which column is what


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _time_column(columns: pa.Table, options: ReadOptions) -> str | tuple[str, ...]:
    """Returns the column that is asked for, else the first that is called after time, else the first that reads so.

    Raises:
        UserError: when there is none, or the file has no header.
    """
    names: list[str] = columns.column_names
    if options.time_column is not None:
        for name in _listed(options.time_column):
            if name not in names:
                raise UserError(f"time column {name!r} is missing; {near(name, names)}")
        return options.time_column
    named = [name for name in names if name.casefold() in TIME_NAMES]
    if named:
        clock = next((name for name in names if name != named[0] and _tells_hours(columns.column(name))), None)
        if clock is not None and not _tells_hours(columns.column(named[0])):
            raise UserError(
                f"column {clock!r} holds times of day; set data.time_column=[{named[0]}, {clock}] if they belong to "
                f"{named[0]!r}, else data.time_column={named[0]} and data.drop=[{clock}]"
            )
        return named[0]
    found = next((name for name in names if looks_like_times(columns.column(name))), None)
    if found is None:
        listed = ", ".join(repr(name[:40]) for name in names[:6])
        raise UserError(
            f"has no time column: expected one called 'date' or 'time', or one of dates; found {listed}; "
            "data.time_column says which it is"
        )
    if looks_like_times(pa.chunked_array([[found]])):
        raise UserError(
            f"has no header: {found[:40]!r} stands where the name of the times should; put a row of names on top"
        )
    return found


def _tells_hours(column: pa.ChunkedArray) -> bool:
    if not is_text(column.type):
        return bool(pa.types.is_time(column.type))
    return bool(pc.all(pc.match_substring_regex(column.drop_null()[:20], r"^\s*\d{1,2}:\d\d(:\d\d)?\b")).as_py())


def _time_cells(columns: pa.Table, time_name: str | tuple[str, ...]) -> tuple[str, pa.ChunkedArray]:
    """Returns the name and the cells of the times; those of several columns are joined by blanks."""
    if isinstance(time_name, str):
        return time_name, columns.column(time_name)
    parts = [columns.column(name).cast(pa.string()) for name in time_name]
    kinds = [name.casefold() for name in time_name]
    if kinds[0] == "year" and kinds == list(_PARTS[: len(kinds)]):
        padded = [pc.utf8_lpad(part, 2, "0") for part in parts[1:]]
        parts = [pc.binary_join_element_wise(parts[0], *padded[:2], "-"), *padded[2:]]
        parts = (
            [parts[0], pc.binary_join_element_wise(*parts[1:], *["00"] * (len(parts) == 2), ":")]
            if parts[1:]
            else parts
        )
    elif pc.all(pc.match_substring_regex(parts[-1], r"^\d{1,2}$")).as_py():  # hours of the day
        parts[-1] = pc.binary_join_element_wise(pc.utf8_lpad(parts[-1], 2, "0"), "00", ":")
    return " ".join(time_name), pc.binary_join_element_wise(*parts, " ")


def _chosen(
    others: list[str], wanted: Sequence[str] | re.Pattern[str] | None, drop: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Returns the columns of numbers to take, and what is wrong about them."""
    if isinstance(wanted, re.Pattern):
        return [name for name in others if wanted.fullmatch(name)], []
    if wanted is not None:
        absent = [name for name in wanted if name not in others]
        problems = [
            f"column {name!r} is missing; {near(name, others) if others else 'there is none'}" for name in absent
        ]
        return [name for name in wanted if name in others], problems
    problems = [f"data.drop: no column {name!r}; {near(name, others)}" for name in drop if name not in others]
    kept = [name for name in others if name not in drop]
    if "" in kept:
        problems.append("a column has no name; name it, or leave it out with data.drop=['']")
    kept = [name for name in kept if name]
    return kept, problems if kept else [*problems, "has no column of numbers beside the times"]


# Long tables


def _pivoted(
    frame: pd.DataFrame, series: pa.ChunkedArray, wanted: Sequence[str] | re.Pattern[str] | None, options: ReadOptions
) -> tuple[pd.DataFrame, list[str]]:
    """Returns a frame with a column for each series of a long table, and for each of its columns if it has several.

    The rows that are left out are said.

    Raises:
        UserError: when a series that is wanted is not there, or the times of one do not increase.
    """
    whose = pd.Series(series.cast(pa.string()).to_pandas(), dtype=object).fillna("").to_numpy()
    parts, notes = {}, []
    for name, rows in pd.Series(np.arange(len(frame))).groupby(whose):
        names = {column: str(name) if frame.shape[1] == 1 else f"{name}.{column}" for column in frame.columns}
        if wanted is None or isinstance(wanted, re.Pattern) or set(names.values()) & set(wanted):
            part = frame.iloc[rows.to_numpy()]
            try:
                parts[name] = in_order(part, options).rename(columns=names)
            except UserError as error:
                raise UserError(f"series {name!r}: {error}") from None
            note = repeats_note(part)
            notes += [] if note is None else [f"series {name!r}: {note}"]
    wide = pd.concat(parts.values(), axis=1, sort=True) if parts else pd.DataFrame(index=frame.index[:0])
    if wanted is None or isinstance(wanted, re.Pattern):
        return wide, notes
    for column in wanted:
        if column not in wide.columns:
            known = np.unique(whose)
            raise UserError(f"no series {column!r} in {options.series_column!r}; {near(column, map(str, known[:20]))}")
    return wide[list(wanted)], notes
