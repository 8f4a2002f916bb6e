"""Intervals that do not mistake overlapping windows for evidence, means of ratios over data sets, and fronts.

S seeds, B blocks of L + H consecutive windows, R resamples, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95

_T_BELOW_FIVE = (12.7062, 4.3027, 3.1824, 2.7764)
"""Student's t, 97.5 % quantile, at 1 to 4 degrees of freedom, where the expansion below is not good enough."""

_SMALLEST_RATIO = 1e-3
"""No resample takes an error further down than to this share: its logarithm must exist."""


@dataclass(frozen=True)
class Interval:
    """A difference, or a ratio, with the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        """Whether a difference is shown at all."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, eq=False)
class Difference:
    """A mean difference of errors, and what its resamples are drawn from.

    Attributes:
        value: mean(errors) - mean(reference), weighted by windows.
        spread_SB: deviation from it of each seed and block, by weight; they sum to 0.
    """

    value: float
    spread_SB: Floats

    def resamples(self, count: int = RESAMPLES, seed: int = 0) -> Floats:
        """Returns the differences of the hierarchical bootstrap, (R,)."""
        drawn_RS, drawn_RB = _draws(*self.spread_SB.shape, count, seed)
        return np.asarray(self.value + ((drawn_RS @ self.spread_SB) * drawn_RB).sum(axis=1))

    def interval(self, count: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """Returns the 95 % interval; None when there is only one block and nothing can be said."""
        if self.spread_SB.shape[1] < 2:
            return None
        low, high = _ends(self.resamples(count, seed))
        return Interval(self.value, low, high)


def difference(errors_SB: Floats, reference_SB: Floats, windows_B: Floats) -> Difference:
    """Returns the mean difference of two models' errors.

    Args:
        errors_SB: mean squared error of each seed and block.
        reference_SB: the same for the model compared with; row s is the partner of row s.
        windows_B: windows per block.
    """
    seeds, blocks = errors_SB.shape
    assert reference_SB.shape == (seeds, blocks), f"{reference_SB.shape} is not {errors_SB.shape}"
    assert windows_B.shape == (blocks,), f"{windows_B.shape} is not ({blocks},)"
    weights_B = windows_B / windows_B.sum()
    difference_SB = errors_SB - reference_SB
    value = float((difference_SB @ weights_B).mean())
    # Linearised: deviations from the value, so that the last, shorter block cannot upset the denominator.
    return Difference(value, (difference_SB - value) * weights_B / seeds)


def paired_difference(
    errors_SB: Floats, reference_SB: Floats, windows_B: Floats, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Returns mean(errors) - mean(reference), weighted by windows, with its hierarchical bootstrap interval.

    Seeds are drawn, then blocks. A draw of blocks is shared by its seeds: every seed is scored on the same test
    windows, so what a hard block does to one it does to all. Few units give too narrow percentiles, so draws are
    stretched (`_stretch`); docs/statistics.md has the coverage that results.

    Args:
        errors_SB: mean squared error of each seed and block.
        reference_SB: the same for the model compared with; row s is the partner of row s.
        windows_B: windows per block.
        resamples: R.
        seed: of the draws; the same input gives the same interval.

    Returns:
        The interval; None when there is only one block and nothing can be said.
    """
    return difference(errors_SB, reference_SB, windows_B).interval(resamples, seed)


def _ends(values_R: Floats) -> tuple[float, float]:
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@lru_cache(maxsize=64)
def _draws(seeds: int, blocks: int, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Returns the draws of seeds and of blocks; the same for all comparisons of one shape, so made once."""
    rng = np.random.default_rng(seed)
    return _drawn(rng, seeds, resamples), _drawn(rng, blocks, resamples)


def _drawn(rng: np.random.Generator, units: int, resamples: int) -> Floats:
    """Returns how often each unit is drawn in each resample, (R, units), stretched about 1."""
    counts = rng.multinomial(units, np.full(units, 1 / units), size=resamples)
    return np.asarray(1 + _stretch(units) * (counts - 1), dtype=np.float64)


def _stretch(units: int) -> float:
    """Returns by how much a percentile interval over few units must grow: sqrt(n / (n - 1)) t / z.

    Source: Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 4.2 (there by way of the level;
    with three units the widest percentile is reached before the level is).
    """
    if units == 1:
        return 1.0
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return float(np.sqrt(units / (units - 1)) * _student_t(units - 1) / z)


def _student_t(freedom: int) -> float:
    """Returns the 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5, good to 0.003 from 5 on)."""
    if freedom <= len(_T_BELOW_FIVE):
        return _T_BELOW_FIVE[freedom - 1]
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return float(z + first / freedom + second / freedom**2 + third / freedom**3)


@dataclass(frozen=True, eq=False)
class LogRatio:
    """The logarithm of a model's error over another's, on one data set and horizon; `spread_R` sums to about 0."""

    value: float
    spread_R: Floats | None

    @classmethod
    def of(cls, difference: Difference, reference_mse: float) -> LogRatio:
        """Returns the ratio whose interval leaves out 1 exactly where the difference's leaves out 0."""
        value = float(np.log(max(1 + difference.value / reference_mse, _SMALLEST_RATIO)))
        if difference.spread_SB.shape[1] < 2:
            return cls(value, None)
        ratios_R = np.maximum(1 + difference.resamples() / reference_mse, _SMALLEST_RATIO)
        return cls(value, np.log(ratios_R) - value)


def pooled_ratio(datasets: Sequence[Sequence[LogRatio]]) -> Interval:
    """Returns the geometric mean of error ratios, each data set weighing the same, with its 95 % interval.

    Data sets are independent: their resamples are paired at random. Horizons of one data set are scored on the same
    weeks, so their resamples are paired by rank, as if one thing moved them all: the widest interval there can be.

    Args:
        datasets: for each data set the ratios at its horizons; none of them empty.

    Returns:
        The ratio; its ends are not numbers where a ratio has no interval.
    """
    value = float(np.exp(np.mean([np.mean([ratio.value for ratio in ratios]) for ratios in datasets])))
    spreads = [[ratio.spread_R for ratio in ratios] for ratios in datasets]
    if any(spread is None for of_one in spreads for spread in of_one):
        return Interval(value, np.nan, np.nan)
    rng = np.random.default_rng(0)
    together = [np.mean([np.sort(spread) for spread in of_one if spread is not None], axis=0) for of_one in spreads]
    low, high = _ends(np.mean([rng.permutation(spread_R) for spread_R in together], axis=0))
    return Interval(value, value * float(np.exp(low)), value * float(np.exp(high)))


def geometric_mean(ratios: Sequence[Interval]) -> Interval:
    """Returns the geometric mean of ratios with the mean of their intervals' ends.

    The ends hold as if the ratios erred together, all up or all down: what one machine's clock does to all of them.
    """
    logs = np.log([(ratio.value, ratio.low, ratio.high) for ratio in ratios]).mean(axis=0)
    value, low, high = np.exp(logs)
    return Interval(float(value), float(low), float(high))


def pareto_front(cost_N: Floats, error_N: Floats) -> NDArray[np.bool_]:
    """Returns which points no other beats: lower is better in both, and equal points stand or fall together."""
    no_worse_NN = (cost_N[:, None] <= cost_N) & (error_N[:, None] <= error_N)
    better_NN = no_worse_NN & ((cost_N[:, None] < cost_N) | (error_N[:, None] < error_N))
    return np.asarray(~better_NN.any(axis=0))
