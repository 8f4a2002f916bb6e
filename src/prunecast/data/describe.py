"""What the numbers of a series are like before any model sees them: seasons, copies, drift, and errors to beat.

T rows, C channels, in raw units and without missing values unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft, signal

from prunecast.data.scaler import Array
from prunecast.data.splits import SplitLengths
from prunecast.records import Record

MAX_SEASON_ROWS = 1 << 17
"""Rows, the last ones, in which seasons are looked for."""

_SENTINELS = frozenset({float("9" * digits) for digits in range(2, 8)})
_WEAKEST, _BETTER = 0.2, 0.02
_SAME = 0.9999


class Season(Record):
    """A lag in steps after which a series repeats itself, and its autocorrelation there."""

    steps: int
    autocorrelation: float


def seasons_of(values_TC: Array) -> tuple[tuple[Season, ...], list[Season | None]]:
    """Returns at most three seasons of all channels together, short ones first, and the shortest of each channel.

    A season is a peak of the autocorrelation, once the straight line through a channel is taken off it; a longer one
    counts only where it repeats the series better than all shorter ones.
    """
    correlations = [_autocorrelation(values_T) for values_T in values_TC[-MAX_SEASON_ROWS:].T]
    each = [next(iter(_peaks(correlation)), None) for correlation in correlations]
    mean = np.mean(correlations, axis=0) if correlations else np.empty(0)
    return tuple(_peaks(mean)[:3]), each


def _autocorrelation(values_T: Array) -> Array:
    """Returns the autocorrelation at the lags from 0 to a third of the rows; zeros for a straight line."""
    rows, lags = len(values_T), len(values_T) // 3 + 1
    flat = signal.detrend(values_T)
    if flat.std() <= 1e-9 * (np.abs(values_T).max() or 1):
        return np.zeros(lags)
    flat /= flat.std()
    spectrum = fft.rfft(flat, fft.next_fast_len(2 * rows, real=True))
    products = fft.irfft(spectrum.real**2 + spectrum.imag**2)[:lags]
    return np.asarray(products / (rows - np.arange(lags)))


def _peaks(correlation: Array) -> list[Season]:
    lags, _ = signal.find_peaks(correlation, height=_WEAKEST, prominence=0.1)
    found: list[Season] = []
    for lag in lags:
        if not found or correlation[lag] > found[-1].autocorrelation + _BETTER:
            found.append(Season(steps=int(lag), autocorrelation=float(min(correlation[lag], 1.0))))
    return found


class Copy(NamedTuple):
    """Column `later` says what column `earlier` said `lag` steps before, up to a scale."""

    earlier: int
    later: int
    lag: int


def copies_of(values_TC: Array) -> list[Copy]:
    """Returns the columns that repeat another, perhaps with a lag and in another unit.

    Lags are looked for in a block from the middle, up to a quarter of its rows; a copy is believed when the steps from
    row to row agree over all rows.
    """
    count, channels = len(values_TC) - 1, values_TC.shape[1]
    rows = min(count, max(256, 1 << int(np.log2(131_072 / max(channels, 32)))))
    if channels < 2 or rows < 16:
        return []
    first = (count - rows) // 2
    block_CR = np.diff(values_TC[first : first + rows + 1], axis=0).T
    size = np.sqrt((block_CR**2).sum(axis=1, keepdims=True))
    spectra = fft.rfft(np.divide(block_CR, size, out=np.zeros_like(block_CR), where=size > 0), 2 * rows, axis=1)
    lags = np.arange(-(rows // 4), rows // 4 + 1)
    found = []
    for earlier in range(channels - 1):
        products = fft.irfft(spectra[earlier].conj() * spectra[earlier + 1 :], axis=1)[:, lags]
        for later, lag in enumerate(lags[np.abs(products).argmax(axis=1)], start=earlier + 1):
            if np.abs(products[later - earlier - 1]).max() > 0.6 and _is_copy(values_TC, earlier, later, int(lag)):
                found.append(Copy(earlier, later, int(lag)) if lag >= 0 else Copy(later, earlier, -int(lag)))
    return found


def _is_copy(values_TC: Array, earlier: int, later: int, lag: int) -> bool:
    if lag < 0:
        earlier, later, lag = later, earlier, -lag
    before, after = np.diff(values_TC[: len(values_TC) - lag, earlier]), np.diff(values_TC[lag:, later])
    size = np.sqrt((before**2).sum() * (after**2).sum())
    return bool(size > 0 and abs((before * after).sum()) > _SAME * size)


class Drift(NamedTuple):
    """How the test part differs from the training part: by mean, in training deviations, and by deviation (C each)."""

    shift: Array
    ratio: Array


def drift_of(values_TC: Array, lengths: SplitLengths) -> Drift:
    """Returns the drift of each channel; NaN where the training part is constant."""
    train, test = values_TC[: lengths.train], values_TC[lengths.train + lengths.validation :]
    std = train.std(axis=0)
    std[train.max(axis=0) == train.min(axis=0)] = np.nan  # the rounding of a mean gives a constant a tiny deviation
    return Drift((test.mean(axis=0) - train.mean(axis=0)) / std, test.std(axis=0) / std)


class WindowCount(Record):
    """How many windows a look-back and a horizon leave in each part of a series; 0 where none fits."""

    lookback: int
    horizon: int
    train: int
    validation: int
    test: int

    @property
    def fits(self) -> bool:
        """Whether each part has one."""
        return min(self.train, self.validation, self.test) > 0


LOOKBACKS, HORIZONS = (24, 96, 336, 720), (24, 96, 192, 336, 720)


def common_window_counts(lengths: SplitLengths) -> Iterator[WindowCount]:
    """Yields what the common look-backs and horizons leave."""
    for lookback in LOOKBACKS:
        for horizon in HORIZONS:
            steps = lookback + horizon
            yield WindowCount(
                lookback=lookback,
                horizon=horizon,
                train=max(0, lengths.train - steps + 1),
                validation=max(0, lengths.validation - horizon + 1) if lengths.train >= lookback else 0,
                test=max(0, lengths.test - horizon + 1) if lengths.train + lengths.validation >= lookback else 0,
            )


class NaiveError(NamedTuple):
    """What a forecast errs that only repeats: MSE in standardised units, MAE of each channel in raw ones, (C)."""

    mse: float
    mae: Array
    windows: int


def naive_error(values_TC: Array, lengths: SplitLengths, horizon: int, period: int) -> NaiveError | None:
    """Returns the error on the test part of a forecast that repeats the last `period` rows; None where no window fits.

    Where there are very many windows, every so many-th is taken.
    """
    train, first = values_TC[: lengths.train], lengths.train + lengths.validation
    count = lengths.test - horizon + 1
    if count < 1 or first < period or not len(train):
        return None
    constant = train.max(axis=0) == train.min(axis=0)
    std = np.where(constant, 1, train.std(axis=0))
    every = max(1, count * horizon * values_TC.shape[1] // 40_000_000)
    squares, sizes = np.zeros(values_TC.shape[1]), np.zeros(values_TC.shape[1])
    for step in range(horizon):
        back = period * (step // period + 1)
        rows = slice(first + step, first + step + count, every)
        before = slice(rows.start - back, rows.stop - back, every)
        error = values_TC[rows] - values_TC[before]
        squares += np.einsum("tc,tc->c", error, error)
        sizes += np.abs(error, out=error).sum(axis=0)
    taken = -(-count // every)
    return NaiveError(float((squares / std**2).mean() / (taken * horizon)), sizes / (taken * horizon), taken)


def sentinel_of(values_T: Array) -> tuple[float, int, int] | None:
    """Returns a number of nines far from all else, how often it stands, and its first row (from 0); None without one.

    Args:
        values_T: of one column; NaN where missing.
    """
    for extreme in (np.nanmin(values_T), np.nanmax(values_T)):
        if abs(extreme) in _SENTINELS:
            is_it = values_T == extreme
            rest = values_T[~is_it & ~np.isnan(values_T)]
            if rest.size and np.abs(rest - extreme).min() > max(np.ptp(rest), 1.0):
                return float(extreme), int(is_it.sum()), int(is_it.argmax())
    return None


def is_index(values_T: NDArray[np.float64]) -> bool:
    """Whether a column only counts: each value is the one before and always the same step, other than 0."""
    steps = np.diff(values_T)
    return bool(len(steps) > 1 and steps[0] != 0 and (steps == steps[0]).all() and steps[0] == round(steps[0]))
