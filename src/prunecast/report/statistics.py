"""Intervals that do not mistake overlapping windows for evidence, and fronts.

S seeds, B blocks of L + H consecutive windows, R resamples, N points.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 1000
LEVEL = 0.95

_T_BELOW_FIVE = (12.7062, 4.3027, 3.1824, 2.7764)
"""Student's t, 97.5 % quantile, at 1 to 4 degrees of freedom, where the expansion below is not good enough."""


@dataclass(frozen=True)
class Interval:
    """A difference with the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    @property
    def leaves_out_zero(self) -> bool:
        """Whether a difference is shown at all."""
        return self.low > 0 or self.high < 0


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
    seeds, blocks = errors_SB.shape
    assert reference_SB.shape == (seeds, blocks), f"{reference_SB.shape} is not {errors_SB.shape}"
    assert windows_B.shape == (blocks,), f"{windows_B.shape} is not ({blocks},)"
    weights_B = windows_B / windows_B.sum()
    difference_SB = errors_SB - reference_SB
    value = float((difference_SB @ weights_B).mean())
    if blocks < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn_RS = _draws(rng, seeds, resamples)
    drawn_RB = _draws(rng, blocks, resamples)
    # Linearised: deviations from the value, so that the last, shorter block cannot upset the denominator.
    spread_SB = (difference_SB - value) * weights_B / seeds
    values_R = value + ((drawn_RS @ spread_SB) * drawn_RB).sum(axis=1)
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _draws(rng: np.random.Generator, units: int, resamples: int) -> Floats:
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


def pareto_front(cost_N: Floats, error_N: Floats) -> NDArray[np.bool_]:
    """Returns which points no other beats: lower is better in both, and equal points stand or fall together."""
    no_worse_NN = (cost_N[:, None] <= cost_N) & (error_N[:, None] <= error_N)
    better_NN = no_worse_NN & ((cost_N[:, None] < cost_N) | (error_N[:, None] < error_N))
    return np.asarray(~better_NN.any(axis=0))
