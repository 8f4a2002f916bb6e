"""Tables of a study: one row per variant and seed, one row per variant, and both as CSV files.

A runtime's columns start with its label: `onnxruntime_ms`, `onnxruntime_speedup`, `onnxruntime_speedup_low`,
`onnxruntime_speedup_high`, `onnxruntime_bytes` and `onnxruntime_zip_bytes` of its file, `onnxruntime_peak_bytes` of
the process, of which `onnxruntime_memory_bytes` came with the model, `onnxruntime_parity`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from prunecast.records import RunRecord, Timing
from prunecast.report.clocks import Clocks
from prunecast.report.compare import FLOORS, Compared, Comparison
from prunecast.report.variants import Study, Variant, accuracies

Frame = pd.DataFrame
Row = Mapping[str, Any]
Rows = Mapping[Variant, Row]
"""Rows of the summary, by variant."""


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
    row |= _accuracy(study, record) | _size(study, record) | _operations(study, record)
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


def _accuracy(study: Study, record: RunRecord) -> dict[str, Any]:
    test = study.accuracy(record)
    paper = accuracies(record).get("paper")
    return {
        "scoring": test.scoring,
        "windows": test.windows,
        "mse": test.mse,
        "mae": test.mae,
        "paper_mse": np.nan if paper is None else paper.mse,
        "paper_mae": np.nan if paper is None else paper.mae,
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


def _operations(study: Study, record: RunRecord) -> dict[str, Any]:
    """Returns the counts, and the speed-up that they promise: the dense parent's products over the non-zero ones."""
    if record.operations is None:
        return {}
    dense = study.dense(record)
    whole = dense.operations.dense_macs if dense is not None and dense.operations is not None else np.nan
    left = record.operations.effective_macs
    return record.operations.model_dump() | {"promised_speedup": whole / left if left else np.nan}


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


def summary_table(runs: Frame, compared: Compared) -> Frame:
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
        return np.exp(np.log(values.obj).groupby(level="key", sort=False).mean())
    if column.endswith("_speedup_low"):
        return values.min()
    if column.endswith("_speedup_high"):
        return values.max()
    return values.mean()


def by_variant(summary: Frame) -> Rows:
    """Returns the rows of a summary, by variant and in its order."""
    found = ({str(key): value for key, value in row.items()} for row in summary.to_dict("records"))
    return dict(zip(summary.index, found, strict=True))


def _comparison_columns(compared: Compared) -> Frame:
    rows: dict[Variant, dict[str, Any]] = {}
    for comparison in compared.every:
        row = rows.setdefault(comparison.variant, {"saturated": _floors(compared, comparison.variant)})
        if comparison.against not in FLOORS:  # of naive forecasts there are several; comparisons.csv has them
            row |= _comparison_row(comparison, f"vs_{comparison.against.replace('-', '_')}")
    return pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), dtype=object, name="key"))


def _floors(compared: Compared, variant: Variant) -> str:
    return ", ".join(compared.floor_names(variant))


def _comparison_row(comparison: Comparison, name: str) -> dict[str, Any]:
    interval = comparison.interval
    return {
        name: comparison.difference,
        f"{name}_low": np.nan if interval is None else interval.low,
        f"{name}_high": np.nan if interval is None else interval.high,
        f"{name}_verdict": comparison.verdict,
    }


def comparison_table(compared: Compared) -> Frame:
    """Returns one row per comparison: the difference of test MSE, its 95 % interval, the verdict and the records."""
    rows = [
        _names(comparison.variant)
        | {"against": comparison.against, "other": comparison.other.full_name}
        | {"seeds": comparison.seeds, "reference_mse": comparison.reference_mse}
        | _comparison_row(comparison, "difference")
        | {
            "records": " ".join(own for own, _ in comparison.fingerprints),
            "other_records": " ".join(other for _, other in comparison.fingerprints),
        }
        for comparison in compared.every
    ]
    return pd.DataFrame(rows)


def to_csv(table: Frame) -> str:
    """Returns the table as CSV; text that a spreadsheet would take for a formula gets a leading apostrophe."""
    safe = table.convert_dtypes()
    for column in safe.select_dtypes(["string", "object"]):
        safe[column] = safe[column].map(inert, na_action="ignore")
    return safe.rename(columns=inert).to_csv(index=False, lineterminator="\n")


def inert(value: Any) -> Any:
    """Returns a text that no spreadsheet takes for a formula; other values as they are."""
    if not isinstance(value, str):
        return value
    line = _CONTROL.sub(" ", value)  # a lone carriage return would start a new row
    return f"'{line}" if line.lstrip().startswith(("=", "+", "-", "@")) else line


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def tables(runs: Frame, summary: Frame, compared: Compared) -> Mapping[str, str]:
    """Returns file name -> CSV text of everything that a report is made of."""
    return {
        "summary.csv": to_csv(summary),
        "runs.csv": to_csv(runs),
        "comparisons.csv": to_csv(comparison_table(compared)),
    }
