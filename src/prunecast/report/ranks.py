"""Ranks over data sets: do forecasters, or methods, differ by more than chance, and which of them?

N data sets, K treatments, R resamples.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import erf, sqrt

import numpy as np

from prunecast.report.statistics import LEVEL, Floats

PERMUTATIONS = 20_000


@dataclass(frozen=True)
class Ranking:
    """Treatments by mean rank over data sets.

    Attributes:
        names: the best first.
        ranks: mean rank of each; 1 is the best there can be.
        datasets: what was ranked on.
        statistic: Friedman's chi square.
        p: how often ranks that chance has dealt differ as much.
        critical_difference: Nemenyi's; mean ranks nearer than that are not told apart.
        groups: first and last place of each run of treatments that are not told apart.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    datasets: tuple[str, ...]
    statistic: float
    p: float
    critical_difference: float
    groups: tuple[tuple[int, int], ...]

    @property
    def told_apart(self) -> bool:
        """Whether any difference is shown at all; only then may pairs be looked at."""
        return self.p < 1 - LEVEL


def ranking(errors: Mapping[str, Mapping[str, float]]) -> Ranking | None:
    """Returns the ranking of treatments by their errors; None where there are not two of them on two data sets.

    Args:
        errors: treatment -> data set -> error; data sets that a treatment lacks are left out for all.
    """
    shared = [name for name in next(iter(errors.values()), {}) if all(name in found for found in errors.values())]
    if len(errors) < 2 or len(shared) < 2:
        return None
    ranks_NK = ranked(np.array([[found[name] for found in errors.values()] for name in shared]))
    mean_K = ranks_NK.mean(axis=0)
    order = np.argsort(mean_K, kind="stable")
    ranks = tuple(float(rank) for rank in mean_K[order])
    statistic, p = friedman(ranks_NK)
    distance = critical_difference(len(errors), len(shared))
    reach = distance if p < 1 - LEVEL else float(len(errors))
    names = list(errors)
    sorted_names = tuple(names[index] for index in order)
    return Ranking(sorted_names, ranks, tuple(shared), statistic, p, distance, _groups(ranks, reach))


def ranked(errors_NK: Floats) -> Floats:
    """Returns the rank of each treatment on each data set, 1 the lowest error; equal ones share their mean rank."""
    lower_NK = (errors_NK[:, None, :] < errors_NK[:, :, None]).sum(axis=2)
    equal_NK = (errors_NK[:, None, :] == errors_NK[:, :, None]).sum(axis=2)
    return np.asarray(lower_NK + (equal_NK + 1) / 2, dtype=np.float64)


def friedman(ranks_NK: Floats) -> tuple[float, float]:
    """Returns Friedman's chi square and the share of shuffled rankings with as large a one.

    Shuffling within each data set needs no table and is right for few data sets too, where chi square is not.
    """
    rng = np.random.default_rng(0)
    shuffled_RNK = rng.permuted(np.broadcast_to(ranks_NK, (PERMUTATIONS, *ranks_NK.shape)), axis=2)
    observed = _chi_square(ranks_NK[None])[0]
    as_large = int((_chi_square(shuffled_RNK) >= observed - 1e-9).sum())
    return float(observed), (as_large + 1) / (PERMUTATIONS + 1)


def _chi_square(ranks_RNK: Floats) -> Floats:
    _, datasets, treatments = ranks_RNK.shape
    means_RK = ranks_RNK.mean(axis=1)
    scale = 12 * datasets / (treatments * (treatments + 1))
    return np.asarray(scale * ((means_RK**2).sum(axis=1) - treatments * (treatments + 1) ** 2 / 4))


def critical_difference(treatments: int, datasets: int) -> float:
    """Returns how far two mean ranks must lie apart to differ, by Nemenyi's test at 5 %."""
    return studentised_range(treatments) * sqrt(treatments * (treatments + 1) / (6 * datasets))


@cache
def studentised_range(treatments: int) -> float:
    """Returns the 95 % quantile of the range of K normal numbers, divided by sqrt(2): Demsar's q, for any K.

    P(range <= x) = K * integral of phi(z) (Phi(z) - Phi(z - x))^(K - 1), bisected for x.
    """
    z = np.linspace(-8, 8, 3201)
    density = np.exp(-(z**2) / 2) / sqrt(2 * np.pi)
    below = np.array([(1 + erf(value / sqrt(2))) / 2 for value in z])
    low, high = 0.0, 10.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        inside = (below - np.interp(z - middle, z, below)) ** (treatments - 1)
        chance = treatments * float((density * inside).sum()) * float(z[1] - z[0])
        low, high = (low, middle) if chance > LEVEL else (middle, high)
    return middle / sqrt(2)


def _groups(ranks: Sequence[float], reach: float) -> tuple[tuple[int, int], ...]:
    """Returns the longest runs of neighbours within `reach`; a run inside another is not named again."""
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(place for place in range(first, len(ranks)) if ranks[place] - ranks[first] < reach)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(groups)
