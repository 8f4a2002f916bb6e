"""How far a method can prune a model before a loss shows: on one data set and horizon, and over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from typing import NamedTuple

from prunecast.report.compare import Against, Case, Compared, Comparison
from prunecast.report.statistics import Interval, LogRatio, pooled_ratio

MARGIN = 0.05
"""A loss is shown to be small when the whole interval lies below this share of the reference's error; and one that is
estimated to be larger is not called none, however wide its interval."""


class Line(NamedTuple):
    """What changes along a sweep is the sparsity alone; all else is its line."""

    model: str
    method: str
    finetuned: bool
    against: Against


@dataclass(frozen=True)
class Level:
    """One sparsity of a method: the error over the reference's, a geometric mean over cases.

    Attributes:
        sparsity: share that was to be removed, in the method's own budget.
        ratio: 1 where nothing changed; ends are not numbers where a record has no errors by block.
        comparisons: what it is the mean of, one for each case.
        saturated: cases in which the variant is not shown to be better than a forecast that learned nothing.
    """

    sparsity: float
    ratio: Interval
    comparisons: tuple[Comparison, ...]
    saturated: int

    @property
    def known(self) -> bool:
        """Whether there is an interval to judge by."""
        return not isnan(self.ratio.low)

    @property
    def loses(self) -> bool:
        """Whether a loss is shown: the interval lies above 1."""
        return self.known and self.ratio.low > 1

    @property
    def holds(self) -> bool:
        """Whether no loss is shown: the interval reaches down to 1, and the estimate is no more than a small loss."""
        return self.known and not self.loses and self.ratio.value < 1 + MARGIN

    @property
    def small(self) -> bool:
        """Whether the loss is shown to be small: the interval ends below 1 + MARGIN."""
        return self.known and self.ratio.high <= 1 + MARGIN


@dataclass(frozen=True)
class Sweep:
    """The sparsities of one line, ascending, all over the same cases."""

    line: Line
    cases: tuple[Case, ...]
    levels: tuple[Level, ...]

    @cached_property
    def no_loss(self) -> Level | None:
        """The highest level at which, and below which, no loss is shown; None where the lowest shows one."""
        return self._reached([level.holds for level in self.levels])

    @cached_property
    def small_loss(self) -> Level | None:
        """The highest level at which, and below which, the loss is shown to be small."""
        return self._reached([level.small for level in self.levels])

    def _reached(self, held: list[bool]) -> Level | None:
        steps = held.index(False) if False in held else len(held)
        return self.levels[steps - 1] if steps else None


class Sweeps:
    """All sweeps of a study: by case, and over the cases of each line."""

    def __init__(self, compared: Compared) -> None:
        self._found: dict[Line, dict[Case, dict[float, Comparison]]] = {}
        self._cache: dict[tuple[Line, Case | None], Sweep | None] = {}
        self._saturated = compared.saturated
        self._controls = {c.variant.method for c in compared.every if c.variant.pruned and c.variant.is_control}
        for comparison in compared.every:
            variant = comparison.variant
            if not variant.pruned or variant.sparsity_requested is None:
                continue
            if comparison.against in ("dense", "dense-continued"):
                line = Line(variant.model, variant.method or "", variant.finetuned, comparison.against)
                of_case = self._found.setdefault(line, {}).setdefault(variant.case, {})
                of_case[round(variant.sparsity_requested, 6)] = comparison

    @property
    def lines(self) -> tuple[Line, ...]:
        """All lines, in the order of the table."""
        return tuple(self._found)

    @property
    def methods(self) -> tuple[tuple[str, str], ...]:
        """Every model and method that it was pruned by."""
        return tuple(dict.fromkeys((line.model, line.method) for line in self._found))

    def is_control(self, method: str) -> bool:
        """Whether a method is there to be beaten: it removes at random."""
        return method in self._controls

    def pooled(self, line: Line, case: Case | None = None) -> Sweep | None:
        """Returns the sweep of a line over all cases, of the sparsities that all of them have; None without any.

        Args:
            line: model, method, fine-tuned or not, and what it is held against.
            case: a single one; over all of them when absent.
        """
        if (line, case) not in self._cache:
            found = {at: of for at, of in self._found.get(line, {}).items() if case in (None, at)}
            shared = set.intersection(*map(set, found.values())) if found else set[float]()
            levels = []
            for sparsity in sorted(shared):
                held = tuple(of[sparsity] for of in found.values())
                levels.append(Level(sparsity, pooled(held), held, sum(self._saturated(c.variant) for c in held)))
            self._cache[line, case] = Sweep(line, tuple(found), tuple(levels)) if levels else None
        return self._cache[line, case]

    def each(self, sweep: Sweep) -> list[Sweep]:
        """Returns a sweep's line on each of its cases by itself."""
        found = (self.pooled(sweep.line, case) for case in sweep.cases)
        return [one for one in found if one is not None]

    def fair(self, model: str, method: str, finetuned: bool, case: Case | None = None) -> Sweep | None:
        """Returns the sweep against the fair opponent: a fine-tuned variant's is the dense model trained on."""
        opponents: tuple[Against, ...] = ("dense-continued", "dense") if finetuned else ("dense",)
        found = (self.pooled(Line(model, method, finetuned, against), case) for against in opponents)
        return next((sweep for sweep in found if sweep is not None), None)

    def best(self, model: str, method: str) -> Sweep | None:
        """Returns the fair sweep with fine-tuning where that was run, else the one without."""
        return self.fair(model, method, True) or self.fair(model, method, False)


def pooled(comparisons: Iterable[Comparison]) -> Interval:
    """Returns the geometric mean of comparisons' error ratios, one of each case; a data set's horizons are kin."""
    by_dataset: dict[str, list[LogRatio]] = {}
    for comparison in comparisons:
        by_dataset.setdefault(comparison.variant.case.dataset, []).append(comparison.log_ratio)
    return pooled_ratio(list(by_dataset.values()))
