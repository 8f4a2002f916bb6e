"""Which variant is held against which, seed by seed and block by block, and what may be said of the difference.

S seeds, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from prunecast.errors import UserError
from prunecast.records import Accuracy, RunRecord
from prunecast.report.statistics import Difference, Floats, Interval, LogRatio, difference
from prunecast.report.variants import Case, Study, Variant

Against = Literal["dense", "dense-continued", "small-dense", "naive", "zeroed-body"]
Verdict = Literal["better", "worse", "not told apart", "no interval"]

FLOORS: tuple[Against, ...] = ("naive", "zeroed-body")
"""What costs nothing to learn; a variant that is not better than that has nothing left to lose."""


@dataclass(frozen=True)
class Comparison:
    """The test MSE of a variant minus that of another, over the seeds that both have.

    Attributes:
        variant: what is judged.
        other: what it is held against.
        against: why: its dense parent, that parent trained on, the small dense model of its size, a naive forecast,
            its dense parent with the body zeroed.
        seeds: how many seeds both have.
        reference_mse: mean MSE of `other` over these seeds.
        difference: mean difference of MSE.
        interval: of the difference, where the records have errors by block and more than one block.
        evidence: what the interval is drawn from, where there are errors by block.
        fingerprints: of the records of both, seed by seed.
    """

    variant: Variant
    other: Variant
    against: Against
    seeds: int
    reference_mse: float
    difference: float
    interval: Interval | None
    evidence: Difference | None = None
    fingerprints: tuple[tuple[str, str], ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Better or worse only when the interval leaves out 0."""
        if self.interval is None:
            return "no interval"
        if not self.interval.leaves_out_zero:
            return "not told apart"
        return "better" if self.interval.high < 0 else "worse"

    @property
    def relative(self) -> Interval | None:
        """The interval as a share of the reference's MSE."""
        if self.interval is None:
            return None
        value, low, high = (
            x / self.reference_mse for x in (self.interval.value, self.interval.low, self.interval.high)
        )
        return Interval(value, low, high)

    @cached_property
    def log_ratio(self) -> LogRatio:
        """The error over the reference's, for means over data sets."""
        if self.evidence is None:
            return LogRatio(float(np.log1p(self.difference / self.reference_mse)), None, self.reference_mse)
        return LogRatio.of(self.evidence, self.reference_mse)


@dataclass(frozen=True)
class Compared:
    """All comparisons of a study, to be asked by variant.

    Attributes:
        every: in the order of the variants.
    """

    every: tuple[Comparison, ...]

    @cached_property
    def _by_variant(self) -> Mapping[tuple[Variant, Against], tuple[Comparison, ...]]:
        found: dict[tuple[Variant, Against], list[Comparison]] = {}
        for comparison in self.every:
            found.setdefault((comparison.variant, comparison.against), []).append(comparison)
        return {key: tuple(comparisons) for key, comparisons in found.items()}

    def of(self, variant: Variant, against: Against) -> Comparison | None:
        """Returns a variant's comparison with its only partner of a kind, where there is one."""
        return next(iter(self.all_of(variant, against)), None)

    def all_of(self, variant: Variant, against: Against) -> tuple[Comparison, ...]:
        """Returns a variant's comparisons with all its partners of a kind; naive forecasts are several."""
        return self._by_variant.get((variant, against), ())

    def floors(self, variant: Variant) -> tuple[Comparison, ...]:
        """Returns the naive forecasts and the zeroed body that a variant is not shown to be better than."""
        held = (comparison for against in FLOORS for comparison in self.all_of(variant, against))
        return tuple(comparison for comparison in held if comparison.verdict in ("worse", "not told apart"))

    def floor_names(self, variant: Variant) -> tuple[str, ...]:
        """Returns what a saturated variant is not shown to be better than, in words; nothing for any other."""
        names = ("its zeroed body" if c.against == "zeroed-body" else c.other.model for c in self.floors(variant))
        return tuple(dict.fromkeys(names))

    def saturated(self, variant: Variant) -> bool:
        """Whether a forecast that learned nothing, or a body of zeros, does as well as a trained variant."""
        return bool(self.floors(variant))


def comparisons(study: Study) -> Compared:
    """Returns all comparisons of a study.

    Raises:
        UserError: when numbers of one case were not scored alike (`check_comparable`).
    """
    for case in study.cases:
        check_comparable(study, case)
    pairs: dict[tuple[Variant, Variant, Against], list[tuple[RunRecord, RunRecord]]] = {}
    for variant, record, other, against in _partners(study):
        pairs.setdefault((variant, study.variant_of[other.fingerprint], against), []).append((record, other))
    return Compared(tuple(_compared(study, *key, found) for key, found in pairs.items()))


def check_comparable(study: Study, case: Case) -> None:
    """Refuses to rank numbers that do not belong together.

    Raises:
        UserError: when a case's test errors differ in scoring, number of windows or data; names one of each.
    """
    seen: dict[tuple[str, int, str], str] = {}
    for variant in study.of(case):
        for seed, record in study.runs[variant].items():
            test = study.accuracy(record)
            scored = (test.scoring, test.windows, record.data.sha256[:12])
            if scored not in seen:
                seen[scored] = f"{variant.full_name}, seed {seed}"
    if len(seen) > 1:
        found = "; ".join(f"{s} scoring of {w} windows of data {sha} ({who})" for (s, w, sha), who in seen.items())
        raise UserError(f"{case.title}: expected all variants scored on the same test windows, found {found}")


def _partners(study: Study) -> Iterator[tuple[Variant, RunRecord, RunRecord, Against]]:
    for variant, runs in study.runs.items():
        naive = [other for other in study.of(variant.case) if other.role == "naive"]
        for record in runs.values():
            for other, against in _references(study, variant, record, naive):
                known = other is not None and other is not record and other.fingerprint in study.variant_of
                if other is not None and known:
                    yield variant, record, other, against


def _references(
    study: Study, variant: Variant, record: RunRecord, naive: Sequence[Variant]
) -> Iterator[tuple[RunRecord | None, Against]]:
    yield study.dense(record), "dense"
    yield study.trained_on(record), "dense-continued"
    if variant.pruned:
        yield study.small_dense(record), "small-dense"
    if variant.role not in ("naive", "zeroed-body"):
        yield study.zeroed_body(record), "zeroed-body"
        for other in naive:
            yield _same_or_only_seed(study, other, record.seed), "naive"


def _same_or_only_seed(study: Study, naive: Variant, seed: int) -> RunRecord | None:
    """Returns the naive forecast beside a seed: nothing is drawn in one, so a single run serves all seeds."""
    runs = study.runs[naive]
    return runs.get(seed) or next(iter(runs.values()))


def _compared(
    study: Study, variant: Variant, other: Variant, against: Against, records: Sequence[tuple[RunRecord, RunRecord]]
) -> Comparison:
    pairs = [(study.accuracy(own), study.accuracy(reference)) for own, reference in records]
    evidence = _evidence(pairs)
    return Comparison(
        variant,
        other,
        against,
        seeds=len(pairs),
        reference_mse=float(np.mean([reference.mse for _, reference in pairs])),
        difference=float(np.mean([own.mse - reference.mse for own, reference in pairs])),
        interval=None if evidence is None else evidence.interval(),
        evidence=evidence,
        fingerprints=tuple((own.fingerprint, reference.fingerprint) for own, reference in records),
    )


def _evidence(pairs: Sequence[tuple[Accuracy, Accuracy]]) -> Difference | None:
    found = [_paired_blocks(own, reference) for own, reference in pairs]
    if any(blocks is None for blocks in found):
        return None
    whole = [blocks for blocks in found if blocks is not None]
    own_SB, reference_SB, windows_SB = (np.stack(values) for values in zip(*whole, strict=True))
    return difference(own_SB, reference_SB, windows_SB[0])


def _paired_blocks(own: Accuracy, reference: Accuracy) -> tuple[Floats, Floats, Floats] | None:
    """Returns both errors by block and the windows per block; None where they were not kept or do not match."""
    if own.blocks is None or reference.blocks is None or own.blocks.windows != reference.blocks.windows:
        return None
    return np.asarray(own.blocks.mse), np.asarray(reference.blocks.mse), np.asarray(own.blocks.windows, dtype=float)
