"""Calendar features as in the published `timeF` encoding, and the step of a series.

T rows, F features. The sets and formulas are those of GluonTS' time features as the published long-horizon studies
use them (Informer and its successors): every feature lies in [-0.5, 0.5].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def calendar_features(times: Times, freq: str) -> NDArray[np.float32]:
    """Returns the features (T, F) of some times.

    Args:
        times: (T,) datetime64.
        freq: a key of `FEATURES`.
    """
    index = pd.DatetimeIndex(times)
    columns = [np.asarray(_FORMULAS[name](index), dtype=np.float64) for name in FEATURES[freq]]
    return np.stack(columns, axis=1).astype(np.float32)


def usual_step(times: Times) -> np.timedelta64:
    """Returns the most frequent difference between neighbours; the shortest of equally frequent ones."""
    steps, counts = np.unique(np.diff(times), return_counts=True)
    step: np.timedelta64 = steps[counts.argmax()]
    return step


_CALENDAR_STEPS = ("B", "MS", "ME", "QS", "QE", "YS", "YE")


def frequency_of(times: Times) -> str | None:
    """Returns the step of regular times as pandas writes it ("h", "15min", "7D", "MS"), None when they are irregular.

    Business days, months, quarters and years (their first or last days) are regular too.

    Args:
        times: (T,) datetime64, increasing; fewer than two have no step.
    """
    steps = np.diff(times)
    if steps.size == 0:
        return None
    if (steps == steps[0]).all():
        return _name_of(steps[0])
    if steps.min() < np.timedelta64(1, "D"):
        return None
    return next((step for step in _CALENDAR_STEPS if _follows(times, step)), None)


def _follows(times: Times, step: str) -> bool:
    # microseconds, as looking for the last step runs past 2262, where nanoseconds end
    first, last = times[[0, -1]].astype("datetime64[us]")
    return np.array_equal(pd.date_range(first, last, freq=step, unit="us").to_numpy(), times)


def _name_of(step: np.timedelta64) -> str:
    days, rest = divmod(pd.Timedelta(step), pd.Timedelta(days=1))
    if not rest:
        return "D" if days == 1 else f"{days}D"
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(step)).freqstr)


def usual_frequency(times: Times) -> str:
    """Returns the step of regular times, else the most frequent one, as pandas writes it."""
    return frequency_of(times) or _name_of(usual_step(times))


def future_times(times: Times, steps: int, frequency: str | None = None) -> Times:
    """Returns the next `steps` times of a series.

    Args:
        times: (T,) the known ones, T at least 2.
        steps: how many to add.
        frequency: the series' step; its usual one when absent.
    """
    ahead = pd.date_range(times[-1], periods=steps + 1, freq=frequency or usual_frequency(times))
    # a last time off the calendar grid (a month that does not end) makes date_range begin after it
    begin = 1 if ahead[0] == pd.Timestamp(times[-1]) else 0
    return np.asarray(ahead[begin : begin + steps].to_numpy(), dtype="datetime64[ns]")


_SEASON_BY_DAYS = {1: 7, 7: 52, 28: 12, 31: 12, 90: 4, 91: 4, 92: 4}


def season_of(frequency: str) -> int:
    """Returns the steps after which a series most likely repeats itself, by its step alone.

    A day for steps below a day, a week for days (5 business days), a year for weeks, months and quarters, else 1.
    """
    if frequency == "B":
        return 5
    first, second = pd.date_range("2001-01-01", periods=2, freq=frequency)
    day = pd.Timedelta(days=1)
    return round(day / (second - first)) if second - first < day else _SEASON_BY_DAYS.get((second - first).days, 1)
