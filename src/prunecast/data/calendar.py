"""Calendar features as in the published `timeF` encoding, and the step of a series.

T rows, F features. The sets and formulas are those of GluonTS' time features as the published long-horizon studies
use them (Informer and its successors): every feature lies in [-0.5, 0.5].

Times with a zone are held in UTC, and their zone beside them: features and steps of a day or more go by the clock on
the wall there (`wall_times`), shorter steps by the time that passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Times = NDArray[np.datetime64]

_FORMULAS: Mapping[str, Callable[[pd.DatetimeIndex], Any]] = {
    "second": lambda index: index.second / 59.0 - 0.5,
    "minute": lambda index: index.minute / 59.0 - 0.5,
    "hour": lambda index: index.hour / 23.0 - 0.5,
    "weekday": lambda index: index.day_of_week / 6.0 - 0.5,
    "day": lambda index: (index.day - 1) / 30.0 - 0.5,
    "yearday": lambda index: (index.day_of_year - 1) / 365.0 - 0.5,
    "week": lambda index: (index.isocalendar().week.to_numpy(dtype=np.float64) - 1) / 52.0 - 0.5,
    "month": lambda index: (index.month - 1) / 11.0 - 0.5,
}

FEATURES: Mapping[str, tuple[str, ...]] = {
    "s": ("second", "minute", "hour", "weekday", "day", "yearday"),
    "t": ("minute", "hour", "weekday", "day", "yearday"),
    "h": ("hour", "weekday", "day", "yearday"),
    "d": ("weekday", "day", "yearday"),
    "w": ("day", "week"),
    "m": ("month",),
}
"""Which features each set of `data.freq` has, in order."""

_DAY = np.timedelta64(1, "D")
_SOME = 1 << 16


def calendar_features(times: Times, freq: str) -> NDArray[np.float32]:
    """Returns the features (T, F) of some times.

    Args:
        times: (T,) datetime64, on the wall.
        freq: a key of `FEATURES`.
    """
    index = pd.DatetimeIndex(times)
    columns = [np.asarray(_FORMULAS[name](index), dtype=np.float64) for name in FEATURES[freq]]
    return np.stack(columns, axis=1).astype(np.float32)


def local_times(times: Times, zone: str | None) -> pd.DatetimeIndex:
    """Returns times as an index with their zone; `zone` is None for times that have none."""
    index = pd.DatetimeIndex(times)
    return index if zone is None else index.tz_localize("UTC").tz_convert(zone)


def wall_times(times: Times, zone: str | None) -> Times:
    """Returns what the clock on the wall says at some times."""
    return times if zone is None else np.asarray(local_times(times, zone).tz_localize(None).to_numpy())


def from_wall(wall: Times, zone: str | None) -> Times:
    """Returns the times at which the clock on the wall says so; the reverse of `wall_times`."""
    index = pd.DatetimeIndex(wall)
    if zone is not None:  # a midnight that clocks skip begins the day an hour later; of a doubled one the first counts
        first = np.ones(len(index), dtype=bool)
        index = index.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").tz_convert(None)
    return np.asarray(index.to_numpy(), dtype="datetime64[ns]")


def distinct_times(times: Times) -> Times:
    """Returns times in order, each once: themselves, not a copy, where they are so."""
    return times if (times[1:] > times[:-1]).all() else np.unique(times)


# The step of a series


@dataclass(frozen=True, eq=False)
class Grid:
    """The step that times follow, gaps allowed.

    Attributes:
        step: as pandas writes it ("h", "15min", "7D", "MS").
        places: (T,) of each time, counted in steps from the first.
    """

    step: str
    places: NDArray[np.int64]

    @property
    def missing(self) -> int:
        """How many steps between the first and the last time are not there."""
        return int(self.places[-1]) + 1 - len(self.places)


def grid_of(times: Times, zone: str | None = None, step: str | None = None) -> Grid | None:
    """Returns the step that times follow with the fewest gaps; None when they follow none.

    Steps of the calendar (business days, months, quarters, years) are looked for where times are days apart: one
    missing holiday is one missing step, not a gap among days.

    Args:
        times: (T,) datetime64; fewer than two, or some that do not increase, follow no step.
        zone: of the times.
        step: the one to look for first, a trained model's: taken when the times follow it with few gaps.
    """
    if len(times) < 2 or (times[1:] <= times[:-1]).any():
        return None
    known = None if step is None else _known_grid(times, zone, step)
    if known is not None and known.missing <= len(times):
        return known
    found = _grids(times, zone)
    return min(found, key=lambda grid: grid.missing, default=None)  # the first of equally good ones


def _wall_of_steps(times: Times, zone: str | None) -> Times:
    """Returns what the clock on the wall says, days apart; a day whose midnight clocks skip begins at midnight, too."""
    wall = wall_times(times, zone)
    if zone is None or np.diff(wall).min() < _DAY - np.timedelta64(1, "h"):
        return wall
    days = wall.astype("datetime64[D]")
    clocks, counts = np.unique(wall - days, return_counts=True)
    told = days + clocks[counts.argmax()]
    return told if len(clocks) > 1 and (from_wall(told, zone) == times).all() else wall


def _known_grid(times: Times, zone: str | None, step: str) -> Grid | None:
    if _is_short(step):
        return _even_grid(times, step, _timedelta(step))
    index = pd.DatetimeIndex(_wall_of_steps(times, zone)).as_unit(
        "us"
    )  # nanoseconds end while the last step is looked for
    places = pd.date_range(index[0], index[-1], freq=step, unit="us").get_indexer(index)
    return Grid(step, places.astype(np.int64)) if (places >= 0).all() and places[0] == 0 else None


def _even_grid(times: Times, name: str, step: np.timedelta64) -> Grid | None:
    places = (times - times[0]).astype("timedelta64[ns]", copy=False).view(np.int64)
    length = int(step.astype("timedelta64[ns]").astype(np.int64))
    # of large series no copy is made
    if any((places[row : row + _SOME] % length).any() for row in range(0, len(places), _SOME)):
        return None
    return Grid(name, np.floor_divide(places, length, out=places))


def frequency_of(times: Times, zone: str | None = None) -> str | None:
    """Returns the step of regular times as pandas writes it, None when they are irregular or lack a step."""
    grid = grid_of(times, zone)
    return None if grid is None or grid.missing else grid.step


def usual_frequency(times: Times, zone: str | None = None) -> str:
    """Returns the step that times follow, else the most frequent one, as pandas writes it."""
    grid = grid_of(times, zone)
    return _name_of(usual_step(times)) if grid is None else grid.step


def usual_step(times: Times) -> np.timedelta64:
    """Returns the most frequent difference between neighbours; the shortest of equally frequent ones."""
    steps = np.diff(times)
    if (steps != steps[0]).any():
        steps, counts = np.unique(steps, return_counts=True)
        steps = steps[counts.argmax() :]
    step: np.timedelta64 = steps[0]
    return step


def _grids(times: Times, zone: str | None) -> Iterator[Grid]:
    """Yields the grids that times lie on, the more usual first."""
    parts = (wall_times(times[row : row + _SOME + 1], zone) for row in range(0, len(times) - 1, _SOME))
    if all(np.diff(wall).min() >= _DAY - np.timedelta64(1, "h") for wall in parts):
        wall = _wall_of_steps(times, zone)
        if np.diff(wall).min() >= _DAY:
            yield from _day_grids(wall)
            return
    step = usual_step(times)
    grid = _even_grid(times, _name_of(step), step)
    if grid is not None and step < _DAY:
        yield grid


_CALENDAR_STEPS: Mapping[str, Callable[[pd.DatetimeIndex], Any]] = {
    "MS": lambda days: days.day == 1,
    "ME": lambda days: days.is_month_end,
    "SMS": lambda days: (days.day == 1) | (days.day == 15),
    "SME": lambda days: (days.day == 15) | days.is_month_end,
    "BMS": lambda days: days.day <= 3,
    "BME": lambda days: days.days_in_month - days.day <= 2,
    "B": lambda days: days.day_of_week < 5,
}
"""Steps of the calendar, and which days can be on them: most files rule them out without a calendar being made."""


def _day_grids(wall: Times) -> Iterator[Grid]:
    days = wall.astype("datetime64[D]")
    if len(np.unique(wall - days)) > 1:
        return
    places = (days - days[0]).astype(np.int64)
    apart = int(np.gcd.reduce(places))
    plain = Grid("D" if apart == 1 else f"{apart}D", places // apart)
    if apart in (1, 7):
        yield plain
    index = pd.DatetimeIndex(days.astype("datetime64[s]"))
    for step, fits in _CALENDAR_STEPS.items():
        if not fits(index).all():
            continue
        places = pd.date_range(index[0], index[-1], freq=step, unit="s").get_indexer(index).astype(np.int64)
        if (places >= 0).all():
            every = int(np.gcd.reduce(places))
            yield Grid(_step_name(step, every, int(index[0].month)), places // every)
    if apart not in (1, 7):
        yield plain


_MONTHS = ("DEC", "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV")


def _step_name(step: str, every: int, month: int) -> str:
    """Returns what pandas calls every so many-th step of the calendar, counted from a month: "3MS" is a quarter."""
    if step not in ("MS", "ME") or every not in (3, 12):
        return step if every == 1 else f"{every}{step}"
    name = ("Q" if every == 3 else "Y") + step.removeprefix("M")
    usual = 1 if step == "MS" else 0  # from January on, until December
    return name if month % every == usual else f"{name}-{_MONTHS[month % every]}"


def _name_of(step: np.timedelta64) -> str:
    days, rest = divmod(pd.Timedelta(step), pd.Timedelta(days=1))
    if not rest:
        return "D" if days == 1 else f"{days}D"
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(step)).freqstr)


def grid_times(times: Times, grid: Grid, zone: str | None = None) -> Times:
    """Returns the time of every step of a grid, from the first of the times that lie on it to the last."""
    rows = len(times) + grid.missing
    if _is_short(grid.step):
        return np.asarray(times[0] + np.arange(rows) * _timedelta(grid.step), dtype="datetime64[ns]")
    wall = pd.date_range(wall_times(times[:1], zone)[0], periods=rows, freq=grid.step, unit="us")
    whole = from_wall(wall.to_numpy(), zone)
    whole[grid.places] = times
    return whole


def future_times(times: Times, steps: int, frequency: str | None = None, zone: str | None = None) -> Times:
    """Returns the next `steps` times of a series.

    Args:
        times: (T,) the known ones, T at least 2.
        steps: how many to add.
        frequency: the series' step; its usual one when absent.
        zone: of the times.
    """
    step = frequency or usual_frequency(times, zone)
    if _is_short(step):
        return np.asarray(times[-1] + np.arange(1, steps + 1) * _timedelta(step), dtype="datetime64[ns]")
    last = wall_times(times[-1:], zone)[0]
    ahead = pd.date_range(last, periods=steps + 1, freq=step)
    # a last time off the calendar grid (a month that does not end) makes date_range begin after it
    begin = 1 if ahead[0] == pd.Timestamp(last) else 0
    return from_wall(ahead[begin : begin + steps].to_numpy(), zone)


def _timedelta(step: str) -> np.timedelta64:
    return pd.Timedelta(pd.tseries.frequencies.to_offset(step)).to_timedelta64()  # type: ignore[arg-type]


def _is_short(step: str) -> bool:
    """Whether a step is shorter than a day, so that it is the same everywhere in time."""
    offset = pd.tseries.frequencies.to_offset(step)
    return isinstance(offset, pd.offsets.Tick) and not isinstance(offset, pd.offsets.Day)


_SEASON_BY_DAYS = {1: 7, 7: 52, **dict.fromkeys(range(28, 32), 12), **dict.fromkeys(range(89, 93), 4)}


def season_of(frequency: str) -> int:
    """Returns the steps after which a series most likely repeats itself, by its step alone.

    A day for steps below a day, a week for days (5 business days), a year for weeks, months and quarters, else 1.
    """
    if frequency == "B":
        return 5
    if frequency in ("SMS", "SME"):
        return 24
    first, second = pd.date_range("2001-01-01", periods=2, freq=frequency)
    day = pd.Timedelta(days=1)
    return round(day / (second - first)) if second - first < day else _SEASON_BY_DAYS.get((second - first).days, 1)
