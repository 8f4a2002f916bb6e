"""Intervals that do not mistake overlapping windows for evidence, means of ratios over data sets, and fronts.

S seeds, B blocks of L + H consecutive windows, R resamples, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95

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

    def resamples(self, count: int = RESAMPLES, seed: int = 0, freedom: tuple[int, int] | None = None) -> Floats:
        """Returns the differences of the hierarchical bootstrap, (R,).

        Args:
            count: R.
            seed: of the draws.
            freedom: degrees of freedom of seeds and of blocks; this comparison's own when absent.
        """
        seeds, blocks = self.spread_SB.shape
        surplus_RS, surplus_RB = _surplus(seeds, blocks, count, seed)
        of_seeds, of_blocks = freedom or (seeds - 1, blocks - 1)
        spread_RB = self.spread_SB.sum(axis=0) + _stretch(seeds, of_seeds) * (surplus_RS @ self.spread_SB)
        return np.asarray(self.value + (spread_RB * (1 + _stretch(blocks, of_blocks) * surplus_RB)).sum(axis=1))

    def interval(self, count: int = RESAMPLES, seed: int = 0) -> Interval | None:
        """Returns the 95 % interval of the hierarchical bootstrap; None for a single block, which says nothing.

        Seeds are drawn, then blocks. A draw of blocks is shared by its seeds: every seed is scored on the same test
        windows, so what a hard block does to one it does to all. Few units give too narrow percentiles, so draws are
        stretched (`_stretch`); docs/statistics.md has the coverage that results.
        """
        if self.spread_SB.shape[1] < 2:
            return None
        low, high = _ends(self.resamples(count, seed))
        return Interval(self.value, low, high)

    @property
    def deviations(self) -> tuple[float, float]:
        """How much of the doubt comes from seeds, and how much from blocks: root sums of squares."""
        return float(np.linalg.norm(self.spread_SB.sum(axis=1))), float(np.linalg.norm(self.spread_SB.sum(axis=0)))


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


def _ends(values_R: Floats) -> tuple[float, float]:
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@lru_cache(maxsize=64)
def _surplus(seeds: int, blocks: int, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Returns how often more than once each seed, and each block, is drawn; made once for comparisons of one shape."""
    rng = np.random.default_rng(seed)
    drawn_RS, drawn_RB = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in (seeds, blocks))
    return np.asarray(drawn_RS - 1, dtype=np.float64), np.asarray(drawn_RB - 1, dtype=np.float64)


def _stretch(units: int, freedom: int) -> float:
    """Returns by how much a percentile interval over few units must grow: sqrt(n / (n - 1)) t / z.

    Source: Hesterberg, What Teachers Should Know about the Bootstrap, 2015, section 4.2 (there by way of the level;
    with three units the widest percentile is reached before the level is).
    """
    if units == 1:
        return 1.0
    upper = (1 + LEVEL) / 2
    return float(np.sqrt(units / (units - 1)) * special.stdtrit(freedom, upper) / special.ndtri(upper))


@dataclass(frozen=True, eq=False)
class LogRatio:
    """The logarithm of a model's error over another's, on one data set and horizon.

    Attributes:
        value: 0 where both err alike.
        difference: of the errors; None where they were not kept by block.
        reference_mse: of the other model.
    """

    value: float
    difference: Difference | None
    reference_mse: float

    @classmethod
    def of(cls, difference: Difference, reference_mse: float) -> LogRatio:
        """Returns the ratio whose interval leaves out 1 exactly where the difference's leaves out 0."""
        value = float(np.log(max(1 + difference.value / reference_mse, _SMALLEST_RATIO)))
        return cls(value, difference if difference.spread_SB.shape[1] > 1 else None, reference_mse)

    def spread(self, freedom: tuple[int, int]) -> Floats:
        """Returns the deviations of the resamples from the value, (R,), in order."""
        assert self.difference is not None, "a ratio without blocks has no resamples"
        ratios_R = 1 + self.difference.resamples(freedom=freedom) / self.reference_mse
        return np.sort(np.log(np.maximum(ratios_R, _SMALLEST_RATIO))) - self.value


def pooled_ratio(datasets: Sequence[Sequence[LogRatio]]) -> Interval:
    """Returns the geometric mean of error ratios, each data set weighing the same, with its 95 % interval.

    Data sets are independent: their resamples are paired at random, and what few seeds or blocks leave unknown of one
    is made up for by the others (`_freedom`). Horizons of one data set are scored on the same weeks, so their resamples
    are paired by rank, as if one thing moved them all: the widest interval there can be.

    Args:
        datasets: for each data set the ratios at its horizons; none of them empty.

    Returns:
        The ratio; its ends are not numbers where a ratio has no interval.
    """
    value = float(np.exp(np.mean([np.mean([ratio.value for ratio in ratios]) for ratios in datasets])))
    found = [[ratio.difference for ratio in ratios if ratio.difference is not None] for ratios in datasets]
    if any(len(kept) < len(ratios) for kept, ratios in zip(found, datasets, strict=True)):
        return Interval(value, np.nan, np.nan)
    freedom = _freedom(found, 0), _freedom(found, 1)
    rng = np.random.default_rng(0)
    together = [np.mean([ratio.spread(freedom) for ratio in ratios], axis=0) for ratios in datasets]
    low, high = _ends(np.mean([rng.permutation(spread_R) for spread_R in together], axis=0))
    return Interval(value, value * float(np.exp(low)), value * float(np.exp(high)))


def _freedom(datasets: Sequence[Sequence[Difference]], level: int) -> int:
    """Returns the degrees of freedom of a mean over data sets, of seeds (level 0) or of blocks (level 1), rounded down.

    Source: Satterthwaite, An Approximate Distribution of Estimates of Variance Components, 1946: all of them where
    data sets differ alike, those of a single one where it alone makes the doubt.
    """
    units = np.array([min(found.spread_SB.shape[level] for found in of_one) - 1 for of_one in datasets])
    deviations = np.array([np.mean([found.deviations[level] for found in of_one]) for of_one in datasets])
    shares = deviations[units > 0] ** 2
    if not shares.any():
        return max(1, int(units.sum()))
    return max(1, int(shares.sum() ** 2 / (shares**2 / units[units > 0]).sum() + 1e-9))


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
