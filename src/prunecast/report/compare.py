"""Which variant is held against which, seed by seed and block by block, and what may be said of the difference.

S seeds, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from prunecast.errors import UserError
from prunecast.records import Accuracy, RunRecord
from prunecast.report.statistics import Floats, Interval, paired_difference
from prunecast.report.variants import Case, Study, Variant

Against = Literal["dense", "trained-on", "small-dense", "naive"]
Verdict = Literal["better", "worse", "not told apart", "no interval"]


@dataclass(frozen=True)
class Comparison:
    """The test MSE of a variant minus that of another, over the seeds that both have.

    Attributes:
        variant: what is judged.
        other: what it is held against.
        against: why: its dense parent, that parent trained on, the small dense model of its size, a naive forecast.
        seeds: how many seeds both have.
        reference_mse: mean MSE of `other` over these seeds.
        difference: mean difference of MSE.
        interval: of the difference, where the records have errors by block and more than one block.
    """

    variant: Variant
    other: Variant
    against: Against
    seeds: int
    reference_mse: float
    difference: float
    interval: Interval | None

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


def comparisons(study: Study) -> tuple[Comparison, ...]:
    """Returns all comparisons of a study.

    Raises:
        UserError: when numbers of one case were not scored alike (`check_comparable`).
    """
    for case in study.cases:
        check_comparable(study, case)
    pairs: dict[tuple[Variant, Variant, Against], list[tuple[Accuracy, Accuracy]]] = {}
    for variant, record, other, against in _partners(study):
        assert record.test is not None, "only scored stages are variants"
        assert other.test is not None, "only scored stages are variants"
        key = (variant, study.variant_of[other.fingerprint], against)
        pairs.setdefault(key, []).append((record.test, other.test))
    return tuple(_compared(*key, found) for key, found in pairs.items())


def check_comparable(study: Study, case: Case) -> None:
    """Refuses to rank numbers that do not belong together.

    Raises:
        UserError: when a case's test errors differ in scoring, number of windows or data; names one of each.
    """
    seen: dict[tuple[str, int, str], str] = {}
    for variant in study.of(case):
        for seed, record in study.runs[variant].items():
            assert record.test is not None, "only scored stages are variants"
            scored = (record.test.scoring, record.test.windows, record.data.sha256[:12])
            seen.setdefault(scored, f"{variant.full_name}, seed {seed}")
    if len(seen) > 1:
        found = "; ".join(f"{s} scoring of {w} windows of data {sha} ({who})" for (s, w, sha), who in seen.items())
        raise UserError(f"{case.title}: expected all variants scored on the same test windows, found {found}")


def _partners(study: Study) -> Iterator[tuple[Variant, RunRecord, RunRecord, Against]]:
    for variant, runs in study.runs.items():
        for record in runs.values():
            for other, against in _references(study, variant, record):
                known = other is not None and other is not record and other.fingerprint in study.variant_of
                if other is not None and known:
                    yield variant, record, other, against


def _references(study: Study, variant: Variant, record: RunRecord) -> Iterator[tuple[RunRecord | None, Against]]:
    yield study.dense(record), "dense"
    yield study.trained_on(record), "trained-on"
    if variant.role in ("pruned", "pruned+finetuned"):
        yield study.small_dense(record), "small-dense"
    if variant.role == "dense":
        for other in study.of(variant.case):
            if other.role == "naive":
                yield _same_or_only_seed(study, other, record.seed), "naive"


def _same_or_only_seed(study: Study, naive: Variant, seed: int) -> RunRecord | None:
    """Returns the naive forecast beside a seed: nothing is drawn in one, so a single run serves all seeds."""
    runs = study.runs[naive]
    return runs.get(seed) or next(iter(runs.values()))


def _compared(
    variant: Variant, other: Variant, against: Against, pairs: Sequence[tuple[Accuracy, Accuracy]]
) -> Comparison:
    reference_mse = float(np.mean([reference.mse for _, reference in pairs]))
    difference = float(np.mean([own.mse - reference.mse for own, reference in pairs]))
    return Comparison(variant, other, against, len(pairs), reference_mse, difference, _interval(pairs))


def _interval(pairs: Sequence[tuple[Accuracy, Accuracy]]) -> Interval | None:
    found = [_paired_blocks(own, reference) for own, reference in pairs]
    if any(blocks is None for blocks in found):
        return None
    whole = [blocks for blocks in found if blocks is not None]
    own_SB, reference_SB, windows_SB = (np.stack(values) for values in zip(*whole, strict=True))
    return paired_difference(own_SB, reference_SB, windows_SB[0])


def _paired_blocks(own: Accuracy, reference: Accuracy) -> tuple[Floats, Floats, Floats] | None:
    """Returns both errors by block and the windows per block; None where they were not kept or do not match."""
    if own.blocks is None or reference.blocks is None or own.blocks.windows != reference.blocks.windows:
        return None
    return np.asarray(own.blocks.mse), np.asarray(reference.blocks.mse), np.asarray(own.blocks.windows, dtype=float)
