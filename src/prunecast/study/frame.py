"""Records as flat rows: the numbers that people put into tables and trackers, one row for each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunecast.records import Epoch, RunRecord

Value = str | int | float | bool | None

DESCRIBES: Mapping[str, str] = {
    "fingerprint": "fingerprint",
    "stage": "stage",
    "role": "role",
    "label": "label",
    "model": "model",
    "dataset": "data.name",
    "data_sha256": "data.sha256",
    "lookback": "recipe.model.lookback",
    "horizon": "recipe.model.horizon",
    "seed": "seed",
    "scoring": "recipe.data.scoring",
    "method": "recipe.prune.method",
    "asked_sparsity": "recipe.prune.sparsity",
    "parent": "parent",
    "reference": "reference",
    "compared_with": "compared_with",
    "unit": "pruning.unit",
    "machine": "environment.machine",
    "processor": "environment.processor",
    "accelerator": "environment.accelerator",
    "torch": "environment.versions.torch",
    "commit": "environment.commit",
    "started_at": "timing.started_at",
}
"""Column -> where it stands in a record: what a stage is."""

MEASURES: Mapping[str, str] = {
    "test_mse": "test.mse",
    "test_mae": "test.mae",
    "test_windows": "test.windows",
    "paper_mse": "test_paper.mse",
    "paper_mae": "test_paper.mae",
    "validation_mse": "validation.mse",
    "validation_mae": "validation.mae",
    "parameters": "size.parameters",
    "nonzero": "size.nonzero",
    "prunable": "size.prunable",
    "raw_bytes": "size.raw_bytes",
    "zip_bytes": "size.zip_bytes",
    "dense_macs": "operations.dense_macs",
    "effective_macs": "operations.effective_macs",
    "executed_macs": "operations.executed_macs",
    "pruned_of": "pruning.total",
    "asked_pruned": "pruning.requested",
    "pruned": "pruning.realised",
    "steps": "fit.steps",
    "best_epoch": "fit.best_epoch",
    "elapsed_s": "timing.elapsed_s",
}
"""Column -> where it stands in a record: what came of it."""

RUNTIME_MEASURES: Mapping[str, str] = {
    "threads": "threads",
    "batch": "batch",
    "ms": "latency.median",
    "p95_ms": "latency.p95",
    "reference_ms": "reference.median",
    "speedup": "speedup.ratio",
    "speedup_low": "speedup.low",
    "speedup_high": "speedup.high",
    "peak_bytes": "peak_memory_bytes",
    "load_ms": "load_ms",
}
"""Column, after the runtime's name -> where it stands in a timing."""

ARTEFACT_MEASURES: Mapping[str, str] = {
    "bytes": "bytes",
    "zip_bytes": "zip_bytes",
    "deviation": "parity.max_deviation",
    "mse_change": "parity.mse_change",
}
"""Column, after the runtime's name -> where it stands in an artefact."""


@dataclass(frozen=True)
class Row:
    """A stage in flat columns; what it does not have is None.

    Attributes:
        describes: what it is.
        measures: the numbers that came of it.
        epochs: its training curve.
    """

    describes: Mapping[str, Value]
    measures: Mapping[str, Value]
    epochs: Sequence[Epoch]

    @property
    def columns(self) -> dict[str, Value]:
        """All columns."""
        return {**self.describes, **self.measures}


Tracker = Callable[[Sequence[Row], str, str], int]
"""Rows, target, title of the study -> how many rows were written."""


def rows_of(records: Iterable[RunRecord]) -> list[Row]:
    """Returns one row for each record, in their order."""
    return [_row(record) for record in records]


def _row(record: RunRecord) -> Row:
    measures = _taken(record, MEASURES)
    for timing in record.timing.runtimes:
        measures |= _taken(timing, RUNTIME_MEASURES, f"{timing.runtime}_")
    for artefact in record.artefacts:
        measures |= _taken(artefact, ARTEFACT_MEASURES, f"{artefact.runtime}_")
    return Row(_taken(record, DESCRIBES), measures, record.fit.epochs if record.fit else ())


def _taken(source: Any, places: Mapping[str, str], prefix: str = "") -> dict[str, Value]:
    return {prefix + column: _at(source, place) for column, place in places.items()}


def _at(source: Any, place: str) -> Value:
    """Returns what stands at a dotted place of a record, or None where there is no such place."""
    for name in place.split("."):
        source = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
    value: Value = source
    return value
