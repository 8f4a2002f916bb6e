"""Gaps in a series: times that are missing, values that are missing, and what may be done about them.

T rows, N columns. `fill` is one of: refuse (a gap is an error), ffill (the last known value), interpolate:N (a straight
line over at most N missing values in a row).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from prunecast.data.calendar import Times, frequency_of, usual_step
from prunecast.data.columns import Frame
from prunecast.errors import UserError
from prunecast.records import Record

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


def iso(time: np.datetime64) -> str:
    """Returns a time as ISO 8601 text, without needless digits."""
    return str(pd.Timestamp(time).isoformat())


def order_problem(times: Times) -> str | None:
    """Returns what is wrong with the order of the times, or None when they increase."""
    backward = np.flatnonzero(np.diff(times) <= np.timedelta64(0))
    if backward.size == 0:
        return None
    row = int(backward[0])
    what = "repeats" if times[row + 1] == times[row] else "goes back behind"
    return f"times must increase: row {row + 2} ({iso(times[row + 1])}) {what} row {row + 1} ({iso(times[row])})"


def on_grid(frame: Frame, fill: str) -> Frame:
    """Returns the frame with a row for every step; rows put in hold NaN.

    Raises:
        UserError: when steps are missing and `fill` refuses, or the times lie on no grid at all.
    """
    times = frame.times
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
    _check_holes(times, positions, fill)
    return _spread(frame, positions, step)


def _check_holes(times: Times, positions: NDArray[np.int64], fill: str) -> None:
    missing = int(positions[-1]) + 1 - len(times)
    row = int(np.flatnonzero(np.diff(positions) > 1)[0])
    where = f"missing time steps: {missing}, the first after row {row + 1} ({iso(times[row])})"
    if missing > len(times):
        raise UserError(f"{where}; that is more than there are: resample the file")
    if fill == REFUSE:
        raise UserError(f"{where}; {_ADVICE}")


def _spread(frame: Frame, positions: NDArray[np.int64], step: np.timedelta64) -> Frame:
    rows = int(positions[-1]) + 1
    values_TN = np.full((rows, len(frame.names)), np.nan)
    values_TN[positions] = frame.values_TN
    return replace(frame, times=frame.times[0] + np.arange(rows) * step, values_TN=values_TN)


def filled(frame: Frame, fill: str) -> Frame:
    """Returns the frame without missing values.

    Raises:
        UserError: when there are some and `fill` refuses, or cannot close a gap.
    """
    if not np.isnan(frame.values_TN).any():
        return frame
    if fill == REFUSE:
        raise UserError(_missing(frame.values_TN, frame.names) + f"; {_ADVICE}")
    values_TN = _forward(frame.values_TN) if fill == "ffill" else _bridged(frame, int(fill.partition(":")[2]))
    if np.isnan(values_TN).any():
        raise UserError(_missing(values_TN, frame.names) + f" which {fill} cannot fill; cut them off")
    return replace(frame, values_TN=values_TN)


def _missing(values_TN: NDArray[np.float64], names: tuple[str, ...]) -> str:
    empty_TN = np.isnan(values_TN)
    column = int(empty_TN.any(axis=0).argmax())
    count, row = int(empty_TN[:, column].sum()), int(empty_TN[:, column].argmax())
    return f"column {names[column]!r}: missing values (NaN): {count}, the first in row {row + 1}"


def _forward(values_TN: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(pd.DataFrame(values_TN).ffill().to_numpy(), dtype=np.float64)


def _bridged(frame: Frame, longest: int) -> NDArray[np.float64]:
    for column, name in enumerate(frame.names):
        length, row = longest_run(np.isnan(frame.values_TN[:, column]))
        if length > longest:
            raise UserError(
                f"column {name!r}: {length} values in a row are missing from row {row + 1} "
                f"({iso(frame.times[row])}); interpolate:{longest} fills at most {longest}"
            )
    return interpolated(frame.values_TN, ends=False)


def interpolated(values_TN: NDArray[np.float64], *, ends: bool) -> NDArray[np.float64]:
    """Returns the values with gaps bridged by straight lines; with `ends`, also by the nearest value at the ends."""
    result_TN = values_TN.copy()
    for column_T in result_TN.T:
        known = np.flatnonzero(~np.isnan(column_T))
        if known.size:
            rows = np.arange(len(column_T)) if ends else np.arange(known[0], known[-1] + 1)
            column_T[rows] = np.interp(rows, known, column_T[known])
    return result_TN


def longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Returns the length of the longest run of True and the row where it begins; (0, 0) without any."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if starts.size == 0:
        return 0, 0
    return int(lengths.max()), int(starts[lengths.argmax()])
