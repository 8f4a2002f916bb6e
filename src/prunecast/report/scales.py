"""From numbers to pixels: linear and logarithmic axes, and where their ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from prunecast.report.statistics import Floats

_STEPS = (1.0, 2.0, 5.0, 10.0)
_LOG_TICKS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""What of a decade gets a tick, from few to many."""


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low: the number at `start`.
        high: the number at `stop`.
        start: a place in pixels.
        stop: a place in pixels; less than `start` on an axis that points upwards.
        logarithmic: whether equal ratios have equal lengths.
    """

    low: float
    high: float
    start: float
    stop: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Returns the place of a number, in pixels."""
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return self.start + (self.stop - self.start) * (at - low) / (high - low)

    def clipped(self, value: float) -> float:
        """Returns the place of a number, or the end of the axis beyond which it lies."""
        return self(min(max(value, self.low), self.high))

    def holds(self, value: float) -> bool:
        """Whether a number lies on the axis."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Returns round numbers along the axis, at most about as many as asked for."""
        return _log_ticks(self.low, self.high, most) if self.logarithmic else _ticks(self.low, self.high, most)


def _ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * step for step in _STEPS if power * step >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    best: list[float] = []
    for parts in _LOG_TICKS:
        found = [float(f"{part * 10.0**decade:.12g}") for decade in decades for part in parts]
        inside = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(best) >= 2 and len(inside) > most:
            break
        best = inside
    if len(best) > most:
        best = best[:: math.ceil(len(best) / most)]
    return best if len(best) >= 2 else _ticks(low, high, most)


def padded_log(low: float, high: float) -> tuple[float, float]:
    """Returns the ends of a logarithmic axis that holds these numbers with a margin."""
    margin = (high / low) ** 0.06 if high > low else 1.5
    return low / margin, high * margin


def padded(low: float, high: float) -> tuple[float, float]:
    """Returns the ends of a linear axis that holds these numbers with a margin."""
    margin = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def error_scale(errors: Iterable[float], start: float, stop: float, ceiling: float = math.inf) -> Scale:
    """Returns an axis that holds errors up to a ceiling, logarithmic where they lie far apart."""
    every = [error for error in errors if error > 0]
    low, high = min(every), min(max(every), ceiling)
    logarithmic = high > 2.5 * low
    ends = padded_log(low, high) if logarithmic else padded(low, high)
    return Scale(*ends, start, stop, logarithmic)


def tick_text(value: float) -> str:
    """Returns a number on an axis: 0.05, 1, 250, 30 k, 2 M."""
    for step, letter in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(value) >= step:
            return f"{value / (1e3 if letter == ' k' else step):.4g}{letter}"
    return f"{value:.4g}".replace("-", "−")


def spread_out(places: ArrayLike, gap: float) -> Floats:
    """Returns the places moved as little as needed, in order, so that neighbours are `gap` apart."""
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=float)[order]
    for _ in range(200):
        overlap = gap - np.diff(moved)
        if (overlap <= 1e-6).all():
            break
        push = np.clip(overlap, 0, None) / 2
        moved[:-1] -= push
        moved[1:] += push
    back = np.empty_like(moved)
    back[order] = moved
    return back


def kept_within(places: Sequence[float], low: float, high: float) -> list[float]:
    """Returns places moved as one, so that they lie between two ends where they can."""
    if not places:
        return []
    shift = max(0.0, low - min(places)) or min(0.0, high - max(places))
    return [place + shift for place in places]
