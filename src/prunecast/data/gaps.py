"""Gaps in a frame: times that are missing, values that are missing, and what may be done about them.

T rows, N columns, an index of times. `fill` is one of: refuse (a gap is an error), ffill (the last known value),
interpolate:N (a straight line over at most N missing values in a row).
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunecast.data.calendar import Times, frequency_of, usual_step
from prunecast.errors import UserError
from prunecast.records import Record

MIN_ROWS = 3
"""Fewer rows have no step that could be told."""

REFUSE = "refuse"
_FILL = re.compile(r"refuse|ffill|interpolate:[1-9]\d*")
_ADVICE = "set data.fill (or --fill) to ffill or interpolate:N, or repair the file"


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


def breaks_of(times: Times) -> tuple[Break, ...]:
    """Returns where the times leave their usual step, in order; none for a regular series."""
    if len(times) < 3 or frequency_of(times) is not None:
        return ()
    rows = np.flatnonzero(np.diff(times) != usual_step(times))
    return tuple(Break(after=iso(times[row]), before=iso(times[row + 1])) for row in rows)


def iso(time: np.datetime64 | pd.Timestamp) -> str:
    """Returns a time as ISO 8601 text, without needless digits."""
    return str(pd.Timestamp(time).isoformat())


def order_problems(frame: pd.DataFrame) -> tuple[str, ...]:
    """Returns what is wrong with the order of a frame's times and with their number; nothing where some are unknown."""
    times = frame.index.to_numpy()
    if np.isnat(times).any():
        return ()
    problems = []
    backward = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
    if backward.size:
        row = int(backward[0])
        what = "repeats" if times[row + 1] == times[row] else "goes back behind"
        found = f"row {row + 2} ({iso(times[row + 1])}) {what} row {row + 1} ({iso(times[row])})"
        problems.append(f"times must increase: {found}")
    if len(times) < MIN_ROWS:
        problems.append(f"expected at least {MIN_ROWS} rows, found {len(times)}")
    return tuple(problems)


def on_grid(frame: pd.DataFrame, fill: str) -> pd.DataFrame:
    """Returns the frame with a row for every step; rows put in hold NaN.

    Args:
        frame: its times increase.
        fill: what may be done about missing steps.

    Raises:
        UserError: when steps are missing and `fill` refuses, or the times lie on no grid at all.
    """
    times = frame.index.to_numpy()
    if frequency_of(times) is not None:
        return frame
    step = usual_step(times)
    offsets = times - times[0]
    off_grid = np.flatnonzero(offsets % step != np.timedelta64(0))
    if off_grid.size:
        row = int(off_grid[0])
        raise UserError(
            f"times are irregular: row {row + 1} ({iso(times[row])}) is no whole number of steps of "
            f"{pd.Timedelta(step)} from the first; resample the file"
        )
    positions = (offsets // step).astype(np.int64)
    rows = int(positions[-1]) + 1
    missing, row = rows - len(times), int(np.flatnonzero(np.diff(positions) > 1)[0])
    where = f"missing time steps: {missing}, the first after row {row + 1} ({iso(times[row])})"
    if missing > len(times):
        raise UserError(f"{where}; that is more than there are: resample the file")
    if fill == REFUSE:
        raise UserError(f"{where}; {_ADVICE}")
    return frame.reindex(pd.DatetimeIndex(times[0] + np.arange(rows) * step))


def filled(frame: pd.DataFrame, fill: str) -> pd.DataFrame:
    """Returns the frame without missing values.

    Args:
        frame: on a grid.
        fill: what may be done about missing values.

    Raises:
        UserError: when there are some and `fill` refuses, or cannot close a gap.
    """
    problem = _missing(frame)
    if problem is None:
        return frame
    if fill == REFUSE:
        raise UserError(f"{problem}; {_ADVICE}")
    whole = frame.ffill() if fill == "ffill" else _bridged(frame, int(fill.partition(":")[2]))
    problem = _missing(whole)
    if problem is not None:
        raise UserError(f"{problem} which {fill} cannot fill; cut them off")
    return whole


def _missing(frame: pd.DataFrame) -> str | None:
    """Returns where the first column with missing values lacks them, None when none does."""
    empty_TN = frame.isna().to_numpy()
    if not empty_TN.any():
        return None
    column = int(empty_TN.any(axis=0).argmax())
    count, row = int(empty_TN[:, column].sum()), int(empty_TN[:, column].argmax())
    return f"column {frame.columns[column]!r}: missing values (NaN): {count}, the first in row {row + 1}"


def _bridged(frame: pd.DataFrame, longest: int) -> pd.DataFrame:
    for name, column in frame.items():
        length, row = longest_run(column.isna().to_numpy())
        if length > longest:
            raise UserError(
                f"column {name!r}: {length} values in a row are missing from row {row + 1} "
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
