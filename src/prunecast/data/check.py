"""What is in a file and what stands in the way of using it: everything that can be said without refusing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from prunecast.data.calendar import usual_frequency
from prunecast.data.files import read_table
from prunecast.data.frames import frame_of_table
from prunecast.data.gaps import REFUSE, Break, breaks_of, check_fill, filled, in_order, iso, on_grid, order_problems
from prunecast.errors import UserError
from prunecast.recipe import ReadOptions
from prunecast.records import Record

SHOWN_BREAKS = 10


class ChannelCheck(Record):
    """One numeric column. `min` and `max` are absent where it holds no finite number."""

    name: str
    min: float | None
    max: float | None
    missing: int


class DataCheck(Record):
    """One file. `frequency` is the usual step; `breaks` are the first ten of `break_count` places that leave it."""

    rows: int
    start: str | None
    end: str | None
    frequency: str | None
    breaks: tuple[Break, ...]
    break_count: int
    channels: tuple[ChannelCheck, ...]
    problems: tuple[str, ...]


def check_file(path: Path, fill: str = REFUSE) -> DataCheck:
    """Returns what is in a CSV, Parquet or Feather file, with one line for each thing that stands in the way.

    Args:
        path: of the file.
        fill: what is to be done with gaps; gaps that it closes are no problem.

    Raises:
        UserError: when the file cannot be read as a table at all, or `fill` is none that there is.
    """
    check_fill(fill)
    options = ReadOptions(fill=fill)
    found = frame_of_table(read_table(path), options)
    frame, zone = found.values_TN, found.reading.zone
    times = frame.index.dropna().to_numpy()
    distinct = np.unique(times)
    breaks = breaks_of(times, zone)
    problems = found.problems + order_problems(frame, options, zone)
    return DataCheck(
        rows=len(frame),
        start=iso(times[0], zone) if times.size else None,
        end=iso(times[-1], zone) if times.size else None,
        frequency=usual_frequency(distinct, zone) if len(distinct) >= 2 else None,
        breaks=breaks[:SHOWN_BREAKS],
        break_count=len(breaks),
        channels=tuple(_channels(frame, found.missing)),
        problems=problems or _gaps(in_order(frame, options, zone), fill, zone),
    )


def _channels(frame: pd.DataFrame, missing: tuple[int, ...]) -> Iterator[ChannelCheck]:
    for (name, values), lacking in zip(frame.items(), missing, strict=True):
        finite = values[np.isfinite(values)]
        low, high = (None, None) if finite.empty else (float(finite.min()), float(finite.max()))
        yield ChannelCheck(name=str(name), min=low, max=high, missing=lacking)


def _gaps(frame: pd.DataFrame, fill: str, zone: str | None) -> tuple[str, ...]:
    """Returns what cannot be filled: missing steps, missing values."""
    problems = []
    try:
        frame, _ = on_grid(frame, fill, zone)
    except UserError as error:
        problems.append(str(error))
    try:
        filled(frame, fill)
    except UserError as error:
        problems.append(str(error))
    return tuple(problems)
