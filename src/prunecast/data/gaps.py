"""Gaps in a frame: times that are missing, values that are missing, and what may be done about them.

T rows, N columns, an index of times. `fill` is one of: refuse (a gap is an error), ffill (the last known value),
interpolate:N (a straight line over at most N missing values in a row).
"""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunecast.data.calendar import Times, grid_of, grid_times, usual_step
from prunecast.errors import UserError
from prunecast.recipe import DataConfig, ReadOptions
from prunecast.records import Record

MIN_ROWS = 3
"""Fewer rows have no step that could be told."""

_ZERO = np.timedelta64(0)
REFUSE = "refuse"
_FILL = re.compile(r"refuse|ffill|interpolate:[1-9]\d*")
ADVICE = "set data.fill to ffill or interpolate:N, or repair the file"
FORECAST_ADVICE = "set fill (--fill) to ffill or interpolate:N, or repair the file"
"""A forecast has an option of its own for the gaps in its look-back."""


def check_fill(fill: str) -> None:
    """Checks a fill that no recipe has checked.

    Raises:
        UserError: when it is none of those that there are.
    """
    if not _FILL.fullmatch(fill):
        raise UserError(f"fill: expected refuse, ffill or interpolate:N, found {fill!r}")


class Break(Record):
    """Two neighbouring rows that are not one usual step apart."""

    after: str
    before: str


def breaks_of(times: Times, zone: str | None = None) -> tuple[Break, ...]:
    """Returns where the times leave their usual step, in order; none for a regular series."""
    if len(times) < 3:
        return ()
    grid = grid_of(times, zone)
    if grid is not None and not grid.missing:
        return ()
    apart = np.diff(times) != usual_step(times) if grid is None else np.diff(grid.places) != 1
    return tuple(Break(after=iso(times[row], zone), before=iso(times[row + 1], zone)) for row in np.flatnonzero(apart))


def iso(time: np.datetime64 | pd.Timestamp, zone: str | None = None) -> str:
    """Returns a time as ISO 8601 text, without needless digits, by the clocks of its zone."""
    moment = pd.Timestamp(time)
    return str((moment if zone is None else moment.tz_localize("UTC").tz_convert(zone)).isoformat())


# The order of rows


def in_order(frame: pd.DataFrame, options: ReadOptions, zone: str | None = None) -> pd.DataFrame:
    """Returns the frame with its times in order, each once, as far as the options allow what that takes.

    A row that repeats the one before in all that it holds says nothing new and is left out (`repeats_note`). Of rows
    with one time the first, or the last, is that of the file, whichever way it is ordered.

    Raises:
        UserError: when times go back or stand twice and the options refuse that.
    """
    times = frame.index.to_numpy()
    if (times[1:] > times[:-1]).all():
        return frame
    back = times[1:] < times[:-1]
    if back.any() and options.order == REFUSE:
        raise _order_error(frame, back, zone, "order=sort")
    rows = _new_rows(frame)
    whole, frame = frame, frame.iloc[rows]
    twice = np.diff(frame.index.to_numpy()) == _ZERO
    if not twice.any():
        return frame
    if options.duplicates == REFUSE:
        raise _order_error(whole, twice, zone, "duplicates=mean, first or last", rows)
    if options.duplicates == "mean":
        return frame.groupby(level=0).mean()
    return frame[~frame.index.duplicated(keep="first" if options.duplicates == "first" else "last")]


def _new_rows(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Returns the rows in the order of their times, without those that wholly repeat the one before."""
    rows = frame.index.to_numpy().argsort(kind="stable")
    times, values_TN = frame.index.to_numpy()[rows], frame.to_numpy()[rows]
    same = (values_TN[1:] == values_TN[:-1]) | np.isnan(values_TN[1:]) & np.isnan(values_TN[:-1])
    new: NDArray[np.int64] = rows[np.append(True, (np.diff(times) != _ZERO) | ~same.all(axis=1))]
    return new


def repeats_note(frame: pd.DataFrame, zone: str | None = None) -> str | None:
    """Returns which rows `in_order` leaves out of a frame because they repeat another; None for none of them."""
    times = frame.index.to_numpy()
    if (times[1:] > times[:-1]).all():
        return None
    left_out = np.delete(np.arange(len(frame)), _new_rows(frame))
    if not left_out.size:
        return None
    first, more = int(left_out[0]), f" (and {left_out.size - 1} more)" if left_out.size > 1 else ""
    return f"row {first + 1} ({iso(frame.index[first], zone)}) wholly repeats another and is left out{more}"


def _order_error(
    frame: pd.DataFrame,
    wrong: NDArray[np.bool_],
    zone: str | None,
    option: str,
    rows: NDArray[np.int64] | None = None,
) -> UserError:
    """Returns what is said of the first step that is wrong, from one of the `rows` (all of the frame) to the next."""
    rows = np.arange(len(frame)) if rows is None else rows
    times, whose = frame.index.to_numpy()[rows], _whose(frame)
    row = int(wrong.argmax())
    what = "repeats" if times[row + 1] == times[row] else "goes back behind"
    found = (
        f"row {rows[row + 1] + 1} ({iso(times[row + 1], zone)}) {what} row {rows[row] + 1} ({iso(times[row], zone)})"
    )
    more = f" and {int(wrong.sum()) - 1} more do so" if wrong.sum() > 1 else ""
    advice = f"set data.{option}, or repair the file"
    if whose is not None:
        advice = f"if column {whose!r} says whose row it is, set data.series_column={whose}; else {advice}"
    if zone is None and _clocks_change(times, wrong, earliest=1):
        advice = f"if clocks went back there, set data.timezone to theirs, as Europe/Berlin; else {advice}"
    return UserError(f"times must increase: {found}{more}; {advice}")


def _whose(frame: pd.DataFrame) -> str | None:
    """Returns a column of numbers in a long table that may say whose row it is: for each of them the times increase."""
    times = frame.index.to_numpy()
    if len(np.unique(times)) > 0.9 * len(times):
        return None
    for name, column in frame.items():
        if 1 < column.nunique() <= len(column) // 3:
            series = [rows for rows in column.groupby(column, dropna=False).indices.values() if len(rows) > 1]
            if all((np.diff(times[rows]) > _ZERO).all() for rows in series):
                return str(name)
    return None


def _clocks_change(times: Times, wrong: NDArray[np.bool_], earliest: int = 0) -> bool:
    """Whether wrong steps look like the begin or end of summer time: an hour or so on a Sunday, in the small hours."""
    rows = np.flatnonzero(wrong)
    hour, steps = np.timedelta64(1, "h"), np.diff(times)[rows]
    moments = pd.DatetimeIndex(times[rows])
    night = (moments.day_of_week == 6) & (moments.hour >= earliest) & (moments.hour < 4)
    return bool((night & (steps >= -hour) & (steps <= 2 * hour)).all())


def order_problems(frame: pd.DataFrame, options: ReadOptions, zone: str | None = None) -> tuple[str, ...]:
    """Returns what is wrong with the order of a frame's times and with their number; nothing where some are unknown."""
    if frame.index.hasnans:
        return ()
    problems = []
    try:
        frame = in_order(frame, options, zone)
    except UserError as error:
        problems.append(str(error))
    if len(frame) < MIN_ROWS:
        problems.append(f"expected at least {MIN_ROWS} rows, found {len(frame)}")
    return tuple(problems)


def empty_tail(frame: pd.DataFrame, beside: Collection[str] = ()) -> int:
    """Returns how many rows at the end hold no value, whatever stands in the columns `beside`; 0 where none does."""
    frame = frame.drop(columns=[name for name in frame.columns if name in beside])
    some = np.flatnonzero(frame.notna().to_numpy().any(axis=1))
    return len(frame) - int(some[-1]) - 1 if some.size else 0


def without_empty_tail(frame: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """Returns the frame without the rows at its end that hold no value beside covariates.

    Raises:
        UserError: when there are some and `data.tail` refuses them.
    """
    empty = empty_tail(frame, config.covariates)
    if empty and config.tail == REFUSE:
        raise UserError(
            f"rows {len(frame) - empty + 1} to {len(frame)}, the last, are empty in every channel; "
            "set data.tail=cut, or cut them off"
        )
    return frame.iloc[: len(frame) - empty]


def on_grid(
    frame: pd.DataFrame, fill: str, zone: str | None = None, step: str | None = None, first: int = 0
) -> tuple[pd.DataFrame, str]:
    """Returns the frame with a row for every step, and the step; rows put in hold NaN.

    Args:
        frame: its times increase.
        fill: what may be done about missing steps.
        zone: of the times.
        step: the one to look for first, a trained model's.
        first: row of the file where the frame begins, for messages.

    Raises:
        UserError: when steps are missing and `fill` refuses, or the times lie on no grid at all.
    """
    times = frame.index.to_numpy()
    grid = grid_of(times, zone, step)
    if grid is not None and not grid.missing:
        return frame, grid.step
    usual = usual_step(times)
    off = np.flatnonzero((times - times[0]) % usual != _ZERO)
    if grid is None or (off.size and grid.missing > len(times)):
        row = int(off[0]) if off.size else len(times) - 1
        raise UserError(
            f"times are irregular: row {first + row + 1} ({iso(times[row], zone)}) is no whole number of steps of "
            f"{pd.Timedelta(usual)} from the first; resample the file"
        )
    row = int(np.flatnonzero(np.diff(grid.places) > 1)[0])
    where = f"missing time steps: {grid.missing}, the first after row {first + row + 1} ({iso(times[row], zone)})"
    if grid.missing > len(times):
        raise UserError(f"{where}; that is more than there are: resample the file")
    if fill == REFUSE:
        skipped = zone is None and _clocks_change(times, np.diff(grid.places) > 1)
        clocks = "if clocks went on there, set data.timezone to theirs, as Europe/Berlin; else " if skipped else ""
        raise UserError(f"{where}, at the step {grid.step}; {clocks}{ADVICE}")
    return frame.reindex(pd.DatetimeIndex(grid_times(times, grid, zone))), grid.step


def filled(frame: pd.DataFrame, fill: str, first: int = 0, advice: str = ADVICE) -> pd.DataFrame:
    """Returns the frame without missing values.

    Args:
        frame: on a grid.
        fill: what may be done about missing values.
        first: row of the file where the frame begins, for messages.
        advice: what to do where `fill` refuses.

    Raises:
        UserError: when there are some and `fill` refuses, or cannot close a gap.
    """
    problem = _missing(frame, first)
    if problem is None:
        return frame
    if fill == REFUSE:
        raise UserError(f"{problem}; {advice}")
    whole = frame.ffill() if fill == "ffill" else _bridged(frame, int(fill.partition(":")[2]), first)
    problem = _missing(whole, first)
    if problem is not None:
        raise UserError(f"{problem} which {fill} cannot fill; cut them off")
    return whole


def _missing(frame: pd.DataFrame, first: int) -> str | None:
    """Returns where the first column with missing values lacks them, None when none does."""
    empty_TN = frame.isna().to_numpy()
    if not empty_TN.any():
        return None
    column = int(empty_TN.any(axis=0).argmax())
    count, row = int(empty_TN[:, column].sum()), int(empty_TN[:, column].argmax())
    return f"column {frame.columns[column]!r}: missing values (NaN): {count}, the first in row {first + row + 1}"


def _bridged(frame: pd.DataFrame, longest: int, first: int) -> pd.DataFrame:
    for name, column in frame.items():
        length, row = longest_run(column.isna().to_numpy())
        if length > longest:
            raise UserError(
                f"column {name!r}: {length} values in a row are missing from row {first + row + 1} "
                f"({iso(frame.index[row])}); interpolate:{longest} fills at most {longest}"
            )
    return interpolated(frame, ends=False)


def interpolated(frame: pd.DataFrame, *, ends: bool) -> pd.DataFrame:
    """Returns the frame with gaps bridged by straight lines; with `ends`, also by the nearest value at the ends."""
    values_TN = frame.to_numpy(copy=True)
    for column_T in values_TN.T:
        known = np.flatnonzero(~np.isnan(column_T))
        if known.size:
            rows = np.arange(len(column_T)) if ends else np.arange(known[0], known[-1] + 1)
            column_T[rows] = np.interp(rows, known, column_T[known])
    return pd.DataFrame(values_TN, frame.index, frame.columns)


def longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Returns the length of the longest run of True and the row where it begins; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if starts.size == 0:
        return 0, 0
    return int(lengths.max()), int(starts[lengths.argmax()])
