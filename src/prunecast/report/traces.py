"""From a number to the records that it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prunecast.report.sheet import Cell, Head
from prunecast.report.variants import Study, Variant

RECORDS = Head("", "records", numeric=False, paper=False)
"""The last column of a table whose numbers come from several records."""

Trace = tuple[str, str]
"""The text of a link, and the fingerprint of the record that it leads to."""


def records_cell(study: Study, variant: Variant) -> Cell:
    """Returns the links to a variant's records: by seed, and of its timings."""
    return Cell(records=(*scored(study, variant), *((f"t{seed}", name) for seed, name in timed(study, variant))))


def scored(study: Study, variant: Variant) -> Iterator[Trace]:
    """Yields the records that hold a variant's errors, by seed."""
    return ((str(seed), record.fingerprint) for seed, record in study.runs[variant].items())


def timed(study: Study, variant: Variant) -> Iterator[Trace]:
    """Yields the records that hold a variant's timings, by seed."""
    return (
        (str(seed), taken.fingerprint)
        for seed, record in study.runs[variant].items()
        for taken in study.taken.get(record.fingerprint, ())
        if taken.timing.runtimes
    )


def several(found: Iterable[tuple[str, Iterable[Trace]]]) -> Cell:
    """Returns the links to records of several things; the first of each bears the name of the thing, if it has one."""
    return Cell(
        records=tuple(
            (f"{name}: {text}" if name and not number else text, fingerprint)
            for name, traces in found
            for number, (text, fingerprint) in enumerate(traces)
        )
    )
