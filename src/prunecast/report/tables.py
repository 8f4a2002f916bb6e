"""Tables of a study: one row per variant and seed, one row per variant, and both as CSV files.

A runtime's columns start with its name: `onnxruntime_ms`, `onnxruntime_speedup`, `onnxruntime_speedup_low`,
`onnxruntime_speedup_high`, `onnxruntime_bytes` and `onnxruntime_zip_bytes` of its file, `onnxruntime_peak_bytes` of
the process, of which `onnxruntime_memory_bytes` came with the model, `onnxruntime_parity`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prunecast.records import RunRecord, Timing
from prunecast.report.compare import Comparison
from prunecast.report.variants import Study, Variant

Frame = pd.DataFrame
Row = Mapping[str, Any]
Rows = Mapping[Variant, Row]
"""Rows of the summary, by variant."""


class Clocks:
    """The timings of one machine: those of others lie in the records too, but are never mixed with them."""

    def __init__(self, study: Study) -> None:
        timed = [record for found in study.taken.values() for record in found if record.timing.runtimes]
        machines = Counter(record.environment.machine for record in timed)
        self.machine = machines.most_common(1)[0][0] if machines else None
        self.left_out = sum(machines.values()) - machines[self.machine or ""]
        self._taken = study.taken
        settings: dict[str, dict[tuple[int, int], None]] = {}
        for record in timed:
            for timing in self._of(record):
                settings.setdefault(timing.runtime, {})[timing.threads, timing.batch] = None
        self._settings = settings

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Labels of what was timed: runtimes, told apart by threads and batch where one was timed in several ways."""
        return tuple(self._label(*key) for name, keys in self._settings.items() for key in ((name, *k) for k in keys))

    @property
    def main(self) -> str | None:
        """The runtime that charts show: ONNX Runtime where it was timed, else the first one."""
        labels = self.runtimes
        return next((label for label in labels if label.startswith("onnxruntime")), labels[0] if labels else None)

    def timings(self, record: RunRecord) -> dict[str, Timing]:
        """Returns the timings of a model, by label."""
        found = [timing for taken in self._taken.get(record.fingerprint, ()) for timing in self._of(taken)]
        return {self._label(timing.runtime, timing.threads, timing.batch): timing for timing in found}

    def _of(self, record: RunRecord) -> tuple[Timing, ...]:
        return record.timing.runtimes if record.environment.machine == self.machine else ()

    def _label(self, runtime: str, threads: int, batch: int) -> str:
        if len(self._settings[runtime]) == 1:
            return runtime
        return f"{runtime} ({threads} threads, batch {batch})"


def runs_table(study: Study, clocks: Clocks) -> Frame:
    """Returns one row per variant and seed; the index holds the `Variant`.

    `sparsity` is 1 - nonzero / parameters of the dense parent; what was not measured is missing.
    """
    rows = {
        (variant, seed): _run(study, clocks, variant, record)
        for variant, runs in study.runs.items()
        for seed, record in runs.items()
    }
    index = pd.Index([variant for variant, _ in rows], dtype=object, name="key")
    return pd.DataFrame(list(rows.values()), index=index)


def _run(study: Study, clocks: Clocks, variant: Variant, record: RunRecord) -> dict[str, Any]:
    row = _names(variant) | {"seed": record.seed, "fingerprint": record.fingerprint}
    row |= _accuracy(record) | _size(study, record) | _operations(record)
    for runtime, timing in clocks.timings(record).items():
        row |= {f"{runtime}_{key}": value for key, value in _timing(timing).items()}
    return row | _artefacts(study, record)


def _names(variant: Variant) -> dict[str, Any]:
    return {
        "dataset": variant.case.dataset,
        "horizon": variant.case.horizon,
        "model": variant.model,
        "variant": variant.name,
        "role": variant.role,
        "method": variant.method,
        "requested": np.nan if variant.requested is None else variant.requested,
        "finetuned": variant.finetuned,
    }


def _accuracy(record: RunRecord) -> dict[str, Any]:
    assert record.test is not None, "only scored stages are variants"
    return {
        "scoring": record.test.scoring,
        "windows": record.test.windows,
        "mse": record.test.mse,
        "mae": record.test.mae,
        "val_mse": np.nan if record.validation is None else record.validation.mse,
    }


def _size(study: Study, record: RunRecord) -> dict[str, Any]:
    if record.size is None:
        return {}
    dense = study.dense(record)
    whole = dense.size.parameters if dense is not None and dense.size is not None else 0
    return {
        "parameters": record.size.parameters,
        "nonzero": record.size.nonzero,
        "sparsity": 1 - record.size.nonzero / whole if whole else np.nan,
        "raw_bytes": record.size.raw_bytes,
        "zip_bytes": record.size.zip_bytes,
        "dense_zip_bytes": np.nan if dense is None or dense.size is None else dense.size.zip_bytes,
    }


def _operations(record: RunRecord) -> dict[str, Any]:
    return {} if record.operations is None else record.operations.model_dump()


def _timing(timing: Timing) -> dict[str, Any]:
    row: dict[str, Any] = {"ms": timing.latency.median, "p95_ms": timing.latency.p95}
    if timing.speedup is not None:
        ratio = timing.speedup
        row |= {"speedup": ratio.ratio, "speedup_low": ratio.low, "speedup_high": ratio.high}
    if timing.peak_memory_bytes is not None:
        row["peak_bytes"] = timing.peak_memory_bytes
        if timing.baseline_memory_bytes is not None:
            row["memory_bytes"] = timing.peak_memory_bytes - timing.baseline_memory_bytes
    return row


def _artefacts(study: Study, record: RunRecord) -> dict[str, Any]:
    """Returns what each runtime's file takes; eager has no file of its own."""
    row: dict[str, Any] = {}
    for taken in study.taken.get(record.fingerprint, ()):
        for artefact in taken.artefacts:
            if artefact.name is not None:
                row |= {
                    f"{artefact.runtime}_bytes": artefact.bytes,
                    f"{artefact.runtime}_zip_bytes": artefact.zip_bytes,
                }
            if artefact.parity is not None:
                row[f"{artefact.runtime}_parity"] = artefact.parity.max_deviation
    return row


def summary_table(runs: Frame, compared: Sequence[Comparison]) -> Frame:
    """Returns one row per variant: means over its seeds, their spread, and what it was compared with.

    `mse_sd` and `mae_sd` are standard deviations over seeds, missing for one seed. A speed-up is the geometric mean;
    its interval is the hull of the seeds' intervals, which leaves out 1 only if each of them does.
    """
    grouped = runs.groupby(level="key", sort=False)
    names = ["dataset", "horizon", "model", "variant", "role", "method", "requested", "finetuned", "scoring", "windows"]
    summary = grouped[names].first()
    summary["seeds"] = grouped.size()
    for column in runs.columns.drop([*names, "seed", "fingerprint"]):
        summary[column] = _over_seeds(grouped[column], str(column))
        if column in ("mse", "mae"):
            summary[f"{column}_sd"] = grouped[column].std(ddof=1)
    return summary.join(_comparison_columns(compared))


def _over_seeds(values: Any, column: str) -> Any:
    if column.endswith("_speedup"):
        return np.exp(values.agg(lambda ratios: np.log(ratios).mean()))
    if column.endswith("_speedup_low"):
        return values.min()
    if column.endswith("_speedup_high"):
        return values.max()
    return values.mean()


def by_variant(summary: Frame) -> Rows:
    """Returns the rows of a summary, by variant and in its order."""
    found = ({str(key): value for key, value in row.items()} for row in summary.to_dict("records"))
    return dict(zip(summary.index, found, strict=True))


def _comparison_columns(compared: Sequence[Comparison]) -> Frame:
    rows: dict[Variant, dict[str, Any]] = {}
    for comparison in compared:
        if comparison.against == "naive":
            continue  # one variant has several; they stand in the table of comparisons
        name = f"vs_{comparison.against.replace('-', '_')}"
        rows.setdefault(comparison.variant, {}).update(_comparison_row(comparison, name))
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), dtype=object, name="key"))


def _comparison_row(comparison: Comparison, name: str) -> dict[str, Any]:
    interval = comparison.interval
    return {
        name: comparison.difference,
        f"{name}_low": np.nan if interval is None else interval.low,
        f"{name}_high": np.nan if interval is None else interval.high,
        f"{name}_verdict": comparison.verdict,
    }


def comparison_table(compared: Sequence[Comparison]) -> Frame:
    """Returns one row per comparison: the difference of test MSE, its 95 % interval and the verdict."""
    rows = [
        _names(comparison.variant)
        | {"against": comparison.against, "other": comparison.other.full_name}
        | {"seeds": comparison.seeds, "reference_mse": comparison.reference_mse}
        | _comparison_row(comparison, "difference")
        for comparison in compared
    ]
    return pd.DataFrame(rows)


def to_csv(table: Frame) -> str:
    """Returns the table as CSV; text that a spreadsheet would take for a formula gets a leading apostrophe."""
    safe = table.convert_dtypes()
    for column in safe.select_dtypes(["string", "object"]):
        safe[column] = safe[column].map(_inert, na_action="ignore")
    return safe.rename(columns=_inert).to_csv(index=False, lineterminator="\n")


def _inert(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = _CONTROL.sub(" ", value)  # a lone carriage return would start a new row
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def tables(runs: Frame, summary: Frame, compared: Sequence[Comparison]) -> Mapping[str, str]:
    """Returns file name -> CSV text of everything that a report is made of."""
    return {
        "summary.csv": to_csv(summary),
        "runs.csv": to_csv(runs),
        "comparisons.csv": to_csv(comparison_table(compared)),
    }
