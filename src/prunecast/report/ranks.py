"""Ranks over data sets: do forecasters, or methods, differ by more than chance, and which of them?

N data sets, K treatments, R resamples.

Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

import numpy as np
import pandas as pd
from scipy import stats

from prunecast.report.compare import Compared, Variant
from prunecast.report.statistics import LEVEL, Floats
from prunecast.report.summary import Rows

PERMUTATIONS = 20_000

MOST_RANKED = 12
"""Of more treatments than that a critical difference says nothing on a handful of data sets."""


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


def ranking(errors_NK: pd.DataFrame) -> Ranking | None:
    """Returns the ranking of treatments by their errors; None where there are not two of them on two data sets.

    Args:
        errors_NK: a row for each data set, a column for each treatment; data sets that a treatment lacks are left out.
    """
    table_NK = errors_NK.dropna()
    datasets, treatments = table_NK.shape
    if treatments < 2 or datasets < 2:
        return None
    ranks_NK = stats.rankdata(table_NK, axis=1)
    mean_K = pd.Series(ranks_NK.mean(axis=0), table_NK.columns).sort_values(kind="stable")
    ranks = tuple(float(rank) for rank in mean_K)
    statistic, p = friedman(ranks_NK)
    distance = critical_difference(treatments, datasets)
    groups = _groups(ranks, distance if p < 1 - LEVEL else treatments)
    return Ranking(tuple(mean_K.index), ranks, tuple(table_NK.index), statistic, p, distance, groups)


def friedman(ranks_NK: Floats) -> tuple[float, float]:
    """Returns Friedman's chi square and the share of shuffled rankings with as large a one.

    The statistic is Demsar's, without the correction for ties of `scipy.stats.friedmanchisquare`. Shuffling within each
    data set needs no table and is right for few data sets too, where chi square is not.
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
    """Returns the 95 % quantile of the range of K normal numbers, divided by sqrt(2): Demsar's q, for any K."""
    return float(stats.studentized_range.ppf(LEVEL, treatments, np.inf)) / sqrt(2)


def _groups(ranks: Sequence[float], reach: float) -> tuple[tuple[int, int], ...]:
    """Returns the longest runs of neighbours within `reach`; a run inside another is not named again."""
    groups: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(place for place in range(first, len(ranks)) if ranks[place] - ranks[first] < reach)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return tuple(groups)


@dataclass(frozen=True)
class Ranked:
    """A ranking, and what each treatment's errors come from."""

    ranking: Ranking
    variants: Mapping[str, tuple[Variant, ...]]


def forecaster_ranking(rows: Rows) -> Ranked | None:
    """Returns the dense forecasters and naive forecasts by test MSE; an error is the geometric mean over horizons.

    A naive forecast that is not to be had everywhere (a season may be longer than the look-back) is left out: the
    forecasters would otherwise not be compared where it is missing.
    """
    found: dict[str, dict[Variant, float]] = {}
    for key, row in rows.items():
        if key.role in ("dense", "naive"):
            found.setdefault(key.model, {})[key] = float(np.log(row["test_mse"]))
    cases = {key.case for of in found.values() for key in of if key.role == "dense"}
    everywhere = {
        name: of
        for name, of in found.items()
        if any(key.role == "dense" for key in of) or cases <= {key.case for key in of}
    }
    return _ranked(everywhere)


def method_ranking(rows: Rows, compared: Compared, sparsity: float) -> Ranked | None:
    """Returns ways to prune at one sparsity by what they do to the error, beside doing nothing and training on.

    A treatment's error on a data set is the geometric mean of its ratio to the dense model's, over the models and
    horizons that all treatments have there.
    """
    found: dict[str, dict[Variant, float]] = {"dense": {}, "dense-continued": {}}
    for key in rows:
        comparison = compared.of(key, "dense")
        if key.role == "dense":
            found["dense"][key] = 0.0
        elif comparison is not None and key.role == "dense-continued":
            found["dense-continued"][key] = comparison.log_ratio.value
        elif comparison is not None and key.pruned and round(key.sparsity_requested or 0, 6) == sparsity:
            found.setdefault(_treatment(key), {})[key] = comparison.log_ratio.value
    return _ranked({name: of for name, of in found.items() if of})


def sparsities(rows: Rows) -> list[float]:
    """Returns the sparsities at which there is more than one way to prune."""
    ways: dict[float, set[str]] = {}
    for key in rows:
        if key.pruned and key.sparsity_requested is not None:
            ways.setdefault(round(key.sparsity_requested, 6), set()).add(_treatment(key))
    return sorted(level for level, found in ways.items() if len(found) > 1)


def _treatment(key: Variant) -> str:
    return f"{key.method}{', fine-tuned' if key.finetuned else ''}"


def _ranked(found: Mapping[str, Mapping[Variant, float]]) -> Ranked | None:
    """Returns the ranking of logarithms of errors, over the cells that all treatments have.

    A cell is data set, horizon and, where the treatment is not the model itself, the model.
    """
    cells = {
        name: {(*key.case, "" if name == key.model else key.model): key for key in of} for name, of in found.items()
    }
    logs = pd.DataFrame({name: {cell: found[name][key] for cell, key in of.items()} for name, of in cells.items()})
    shared = logs.dropna()
    if shared.empty or len(found) > MOST_RANKED:
        return None
    ranks = ranking(shared.groupby(level=0).mean())
    variants = {name: tuple(key for cell, key in of.items() if cell in shared.index) for name, of in cells.items()}
    return None if ranks is None else Ranked(ranks, variants)


def not_told_apart(found: Ranking, place: int) -> list[str]:
    """Returns the treatments that one at a place is not told apart from."""
    near = {other for first, last in found.groups if first <= place <= last for other in range(first, last + 1)}
    return [found.names[other] for other in sorted(near - {place})]
