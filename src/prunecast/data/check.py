"""What is in a file and what stands in the way of using it: everything that can be said without refusing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prunecast.data.calendar import Times, usual_frequency
from prunecast.data.columns import Frame, to_frame
from prunecast.data.gaps import REFUSE, Break, breaks_of, check_fill, filled, iso, on_grid
from prunecast.data.series import problems_of
from prunecast.data.table import read_table
from prunecast.errors import UserError
from prunecast.records import Record


class ChannelCheck(Record):
    """One numeric column. `min` and `max` are absent where it holds no finite number."""

    name: str
    min: float | None
    max: float | None
    missing: int


class DataCheck(Record):
    """One file. `frequency` is the usual step; `breaks` says where the times leave it."""

    rows: int
    start: str | None
    end: str | None
    frequency: str | None
    breaks: tuple[Break, ...]
    channels: tuple[ChannelCheck, ...]
    problems: tuple[str, ...]


def check_file(path: Path, *, time_column: str | None = None, fill: str = REFUSE) -> DataCheck:
    """Returns what is in a CSV or Parquet file, with one line for each thing that stands in the way.

    Args:
        path: of the file.
        time_column: found by itself when absent.
        fill: what is to be done with gaps; gaps that it closes are no problem.

    Raises:
        UserError: when the file cannot be read as a table at all, or `fill` is none that there is.
    """
    check_fill(fill)
    frame = to_frame(read_table(path).columns, time_column)
    times = frame.times[~np.isnat(frame.times)]
    return DataCheck(
        rows=len(frame.times),
        start=iso(times[0]) if times.size else None,
        end=iso(times[-1]) if times.size else None,
        frequency=_frequency(times),
        breaks=breaks_of(times),
        channels=_channels(frame),
        problems=_problems(frame, fill),
    )


def _frequency(times: Times) -> str | None:
    distinct = np.unique(times)
    return usual_frequency(distinct) if len(distinct) >= 2 else None


def _channels(frame: Frame) -> tuple[ChannelCheck, ...]:
    columns = zip(frame.names, frame.values_TN.T, frame.missing, strict=True)
    return tuple(_channel(name, values, missing) for name, values, missing in columns)


def _channel(name: str, values: NDArray[np.float64], missing: int) -> ChannelCheck:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return ChannelCheck(name=name, min=None, max=None, missing=missing)
    return ChannelCheck(name=name, min=float(finite.min()), max=float(finite.max()), missing=missing)


def _problems(frame: Frame, fill: str) -> tuple[str, ...]:
    problems = list(problems_of(frame))
    for close in () if problems else (on_grid, filled):
        try:
            frame = close(frame, fill)
        except UserError as error:
            problems.append(str(error))
    return tuple(problems)
