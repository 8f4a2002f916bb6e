"""`synthetic-load`: generated hourly load of four consumers with their weather, for a first run without a network.

548 days from Monday 2 January 2023. t counts hours, h is the hour of the day, y counts days from 1 January, e_t are
independent noises of mean 0 and variance 1, each series with its own.

    season       q_t = -cos(2 pi (y + 10) / 365.25)                                  -1 in midwinter, 1 in midsummer
    weather      W_t = 0.985 W_(t-1) + 0.45 e_t                                      spells of some days
    cloud        K_t = min(1, max(0, 0.5 + A_t)),   A_t = 0.95 A_(t-1) + 0.1 e_t
    solar        S_t = 600 max(0, -cos(2 pi h / 24) - 0.1 + 0.4 q_t) (1 - 0.75 K_t)
    temperature  Q_t = 10 - 9 cos(2 pi (y - 15) / 365.25) - 3 cos(2 pi (h - 4) / 24) + 0.004 S_t + W_t
    indoors      R_t = R_(t-1) + (Q_t - R_(t-1)) / 6                                 buildings follow with a delay

with c_t = max(0, R_t - 17) for cooling, w_t = max(0, 15 - R_t) for heating, o_t the share of people or machines at work
(a table by hour and kind of day, one per consumer) and N_t = 0.8 N_(t-1) + s e_t:

    office       30 + o_t (60 + 2.2 c_t) + w_t (0.4 + 0.6 o_t) + N_t, times 0.92 from day 300 on (new lighting)
    retail       20 + o_t (45 + 1.8 c_t) + N_t, plus 8 from day 180 on (new freezers)
    household    40 + 45 o_t + 1.6 w_t (0.5 + 0.5 o_t) - 0.03 S_t + N_t             with solar panels on the roof
    plant        10 + L_t o_t + N_t                                                 L_t: orders, see below

Days are of three kinds: work, Saturday, Sunday. Twelve single days drawn per year and 24 December to 1 January count as
Sundays; the plant also rests for two weeks from day 210. The level L_t of the plant is 70, 85 or 100 and is drawn anew
on average every 16 days.

The values are a fixed function of the seed: uniforms come from the raw 64-bit stream of PCG64, which NumPy keeps
stable, noises are sums of twelve of them, and the result is rounded to four decimals so that the last bits of cosines
on other processors do not show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Hourly = NDArray[np.float64]

DAYS = 548
HOURS = 24 * DAYS
START = np.datetime64("2023-01-02T00:00:00", "ns")
CHANNELS = ("office", "retail", "household", "plant", "temperature", "solar")
DECIMALS = 4

_WORK, _SATURDAY, _SUNDAY = 0, 1, 2
_WINTER_BREAK = slice(356, 365)
_PLANT_REST = slice(210, 224)


@cache
def generate(seed: int = 1) -> pd.DataFrame:
    """Returns the hourly frame of a seed; the catalogue's `synthetic-load` is that of the default one."""
    source = _Source(seed)
    hour, day = np.arange(HOURS) % 24, np.arange(HOURS) // 24
    solar, temperature = _weather(source, hour, day + 1)
    loads = _loads(source, hour, day, solar, _follow(temperature, 6))
    values_TC = np.round(np.stack([*loads, temperature, solar], axis=1), DECIMALS)
    values_TC += 0.0  # no negative zero
    values_TC.setflags(write=False)  # every caller gets the same one
    times = START + np.arange(HOURS) * np.timedelta64(1, "h")
    return pd.DataFrame(values_TC, index=pd.DatetimeIndex(times), columns=pd.Index(CHANNELS))


def sha256_of(frame: pd.DataFrame) -> str:
    """Returns the hash that names a generated frame: of its channels, its first time and its values in whole units."""
    whole = np.round(frame.to_numpy() * 10**DECIMALS).astype("<i8")
    return hashlib.sha256(",".join(CHANNELS).encode() + str(START).encode() + whole.tobytes()).hexdigest()


class _Source:
    """Uniforms and noises from the raw stream of PCG64."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def uniform(self, count: int) -> Hourly:
        return np.asarray((self._bits.random_raw(count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)

    def noise(self, count: int) -> Hourly:
        """Sums of twelve uniforms: mean 0, variance 1, within 6 of 0 (no tails, and no logarithm that may differ)."""
        return np.asarray(self.uniform(12 * count).reshape(12, count).sum(axis=0) - 6.0)

    def autoregressive(self, count: int, memory: float, scale: float) -> Hourly:
        noise = (scale * self.noise(count)).tolist()
        return np.array(list(accumulate(noise, lambda last, new: memory * last + new)))


def _weather(source: _Source, hour: NDArray[np.int64], yearday: NDArray[np.int64]) -> tuple[Hourly, Hourly]:
    season = -np.cos(2 * np.pi * (yearday + 10) / 365.25)
    cloud = np.clip(0.5 + source.autoregressive(HOURS, 0.95, 0.1), 0, 1)
    sun = np.maximum(0, -np.cos(2 * np.pi * hour / 24) - 0.1 + 0.4 * season)
    solar = 600 * sun * (1 - 0.75 * cloud)
    yearly = 10 - 9 * np.cos(2 * np.pi * (yearday - 15) / 365.25)
    daily = -3 * np.cos(2 * np.pi * (hour - 4) / 24)
    return solar, yearly + daily + 0.004 * solar + source.autoregressive(HOURS, 0.985, 0.45)


def _follow(values: Hourly, hours: int) -> Hourly:
    return np.array(list(accumulate(values.tolist(), lambda last, new: last + (new - last) / hours)))


def _loads(
    source: _Source, hour: NDArray[np.int64], day: NDArray[np.int64], solar: Hourly, indoors: Hourly
) -> tuple[Hourly, ...]:
    kinds, plant_kinds = _kinds_of_day(source)
    cooling, heating = np.maximum(0, indoors - 17), np.maximum(0, 15 - indoors)
    office, retail, household = (_TABLES[name][kinds[day], hour] for name in ("office", "retail", "household"))
    shift = _TABLES["plant"][plant_kinds[day], hour]
    noise = [source.autoregressive(HOURS, 0.8, scale) for scale in (1.5, 1.0, 1.5, 2.0)]
    return (
        (30 + office * (60 + 2.2 * cooling) + heating * (0.4 + 0.6 * office)) * np.where(day < 300, 1.0, 0.92)
        + noise[0],
        20 + retail * (45 + 1.8 * cooling) + np.where(day < 180, 0.0, 8.0) + noise[1],
        40 + 45 * household + 1.6 * heating * (0.5 + 0.5 * household) - 0.03 * solar + noise[2],
        10 + _orders(source)[day] * shift + noise[3],
    )


def _kinds_of_day(source: _Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the kind of each day, for all and for the plant."""
    kinds = np.choose(np.arange(DAYS) % 7, [_WORK] * 5 + [_SATURDAY, _SUNDAY])
    holidays = (source.uniform(12 * DAYS // 365) * DAYS).astype(np.int64)
    kinds[holidays] = _SUNDAY
    kinds[_WINTER_BREAK] = _SUNDAY
    plant = kinds.copy()
    plant[_PLANT_REST] = _SUNDAY
    return kinds, plant


def _orders(source: _Source) -> Hourly:
    """Returns the plant's level on each day: kept with 15 chances in 16, else drawn anew."""
    drawn = np.array([70.0, 85.0, 100.0])[(source.uniform(DAYS) * 3).astype(np.int64)]
    kept = source.uniform(DAYS) < 15 / 16
    pairs = zip(drawn.tolist(), kept.tolist(), strict=True)
    levels = accumulate(pairs, lambda last, new: (last[0], True) if new[1] else new)
    return np.array([level for level, _ in levels])


def _table(work: Sequence[int], saturday: Sequence[int], sunday: Sequence[int]) -> Hourly:
    return np.array([work, saturday, sunday]) / 100


_TABLES = {
    "office": _table(
        [5, 5, 5, 5, 5, 8, 20, 55, 85, 95, 100, 98, 90, 95, 100, 96, 85, 60, 35, 20, 12, 8, 5, 5],
        [5, 5, 5, 5, 5, 5, 6, 8, 12, 15, 16, 16, 14, 12, 10, 8, 6, 5, 5, 5, 5, 5, 5, 5],
        [5] * 24,
    ),
    "retail": _table(
        [8, 8, 8, 8, 8, 10, 18, 35, 60, 85, 95, 98, 98, 95, 92, 94, 98, 100, 95, 80, 45, 18, 8, 8],
        [8, 8, 8, 8, 8, 10, 18, 40, 75, 98, 100, 100, 100, 98, 95, 90, 80, 55, 30, 18, 10, 8, 8, 8],
        [8, 8, 8, 8, 8, 8, 8, 8, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 8, 8, 8, 8, 8, 8],
    ),
    "household": _table(
        [20, 14, 10, 8, 10, 25, 55, 70, 55, 35, 28, 30, 35, 30, 28, 32, 45, 65, 85, 100, 95, 80, 55, 32],
        [28, 20, 14, 10, 10, 12, 20, 38, 60, 75, 78, 75, 72, 65, 58, 56, 60, 70, 82, 90, 85, 75, 58, 42],
        [34, 24, 16, 12, 10, 10, 16, 28, 50, 70, 80, 88, 85, 70, 60, 56, 60, 70, 85, 95, 88, 72, 50, 30],
    ),
    "plant": _table(
        [15, 15, 15, 15, 20, 50, 100, 100, 100, 98, 100, 100, 95, 92, 98, 100, 100, 100, 95, 98, 100, 90, 45, 18],
        [15, 15, 15, 15, 18, 35, 60, 62, 62, 60, 60, 58, 50, 25, 18, 15, 15, 15, 15, 15, 15, 15, 15, 15],
        [12] * 24,
    ),
}
