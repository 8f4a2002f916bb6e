"""The numbers of a study as data frames: one row a run, one row a variant, one row a comparison, and speed-ups.

A runtime's columns start with its label: the runtime's name, and where one was timed in several ways or on several
machines, what tells them apart. `<label>_model_memory_bytes` is what the process held beside what it held before the
model was loaded, `<label>_cold_start_ms` the time from the import of the runtime to the first forecast,
`<label>_realised_share` the speed-up over the cut of the operations; all else is as in `prunecast.study.frame`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prunecast.report.compare import FLOORS, Case, Compared, Comparison, StudyRuns, Variant
from prunecast.report.statistics import Interval, geometric_mean
from prunecast.report.style import missing
from prunecast.study.frame import StageRow, runtimes

Rows = Mapping[Variant, StageRow]
"""Rows of the summary, by variant."""


class _Timer(NamedTuple):
    """Times of one timer may be put side by side."""

    machine: str
    runtime: str
    threads: int
    batch: int


class Timings:
    """What was timed, and how.

    Attributes:
        labels: what was timed, in the order of the columns; runtimes of the machine with the most timings come first
            and have plain names.
        main: the label that charts show: ONNX Runtime where it was timed, else the first one.
        busy: how many timed models were timed while other stages ran on the machine.
    """

    def __init__(self, study: StudyRuns) -> None:
        self._taken = study.taken
        self._runtimes = study.frame.runtimes()
        timed = [row for found in study.taken.values() for row in found if self._timers(row)]
        machines = [machine for machine, _ in Counter(row["machine"] for row in timed).most_common()]
        names = {row["machine"]: row.get("accelerator") or row["processor"] for row in timed}
        bearers = Counter(names.values())
        timers = dict.fromkeys(timer for row in timed for timer in self._timers(row))
        ways = Counter(timer[:2] for timer in timers)
        self._labels: dict[_Timer, str] = {}
        for timer in sorted(timers, key=lambda timer: machines.index(timer.machine)):
            label, name = timer.runtime, names[timer.machine]
            if ways[timer[:2]] > 1:
                label += f" ({timer.threads} threads, batch {timer.batch})"
            if timer.machine != machines[0]:
                label += f" on {name}" + (f" [{timer.machine[:6]}]" if bearers[name] > 1 else "")
            self._labels[timer] = label
        self.labels = tuple(self._labels.values())
        first = next(iter(self.labels), None)
        self.main = next((label for label in self.labels if label.startswith("onnxruntime")), first)
        self.busy = sum(bool(row.get("machine_busy")) for row in timed)

    def _timers(self, row: StageRow) -> list[_Timer]:
        return [
            _Timer(row["machine"], name, row[f"{name}_threads"], row[f"{name}_batch"])
            for name in self._runtimes
            if f"{name}_latency_ms" in row
        ]

    def columns(self, fingerprint: str) -> dict[str, Any]:
        """Returns the columns of a model's timings, under their labels."""
        found: dict[str, Any] = {}
        for row in self._taken.get(fingerprint, ()):
            for timer in self._timers(row):
                label, own = self._labels[timer], f"{timer.runtime}_"
                for name in ("latency_ms", "p95_ms", "speedup", "speedup_low", "speedup_high", "peak_memory_bytes"):
                    if own + name in row:
                        found[f"{label}_{name}"] = row[own + name]
                if f"{own}baseline_memory_bytes" in row and f"{own}peak_memory_bytes" in row:
                    added = row[f"{own}peak_memory_bytes"] - row[f"{own}baseline_memory_bytes"]
                    found[f"{label}_model_memory_bytes"] = added
                found[f"{label}_windows_per_s"] = 1e3 * timer.batch / row[f"{own}latency_ms"]
                cold = [f"{own}{part}_ms" for part in ("start", "load", "first_forecast")]
                if not any(missing(row.get(part)) for part in cold):
                    found[f"{label}_cold_start_ms"] = sum(row[part] for part in cold)
                if not missing(energy := row.get(f"{own}energy_mj")):
                    found[f"{label}_energy_mj"] = energy
        return found


def runs_table(study: StudyRuns, timings: Timings) -> pd.DataFrame:
    """Returns one row per variant and seed; the index holds the `Variant`.

    `sparsity_realised` is 1 - nonzero / parameters of the dense parent; what was not measured is missing.
    """
    rows = [
        (variant, _names(variant) | _run(study, row) | timings.columns(row["fingerprint"]) | _artefacts(study, row))
        for variant, runs in study.runs.items()
        for row in runs.values()
    ]
    for _, row in rows:
        if not missing(promised := row.get("promised_speedup")):
            found = {label: row.get(f"{label}_speedup", np.nan) / promised for label in timings.labels}
            row |= {f"{label}_realised_share": share for label, share in found.items() if not missing(share)}
    return pd.DataFrame([row for _, row in rows], index=pd.Index([variant for variant, _ in rows], dtype=object))


def _names(variant: Variant) -> dict[str, Any]:
    return {
        "dataset": variant.case.dataset,
        "horizon": variant.case.horizon,
        "model": variant.model,
        "variant": variant.name,
        "role": variant.role,
        "method": variant.method,
        "sparsity_requested": np.nan if variant.sparsity_requested is None else variant.sparsity_requested,
        "finetuned": variant.finetuned,
    }


_AS_THEY_ARE = ("parameters", "nonzero", "raw_bytes", "zip_bytes", "dense_macs", "effective_macs", "executed_macs")


def _run(study: StudyRuns, row: StageRow) -> dict[str, Any]:
    """Returns a run's errors, sizes, and the speed-up that operations promise: the dense ones over those left."""
    dense = study.dense(row) or {}
    found = {"seed": row["seed"], "fingerprint": row["fingerprint"], "scoring": study.scoring(row)}
    found["test_windows"] = study.windows(row)
    found |= {f"test_{metric}": study.error(row, metric) for metric in study.frame.metrics()}
    found |= {name: row.get(name, np.nan) for name in ("paper_mse", "paper_mae", "validation_mse")}
    found |= {name: row[name] for name in _AS_THEY_ARE if name in row}
    if "nonzero" in row:
        whole = dense.get("parameters")
        found["sparsity_realised"] = 1 - row["nonzero"] / whole if whole else np.nan
        found["dense_zip_bytes"] = dense.get("zip_bytes", np.nan)
    if "effective_macs" in row:
        left = row["effective_macs"]
        found["promised_speedup"] = dense.get("dense_macs", np.nan) / left if left else np.nan
    return found


def _artefacts(study: StudyRuns, row: StageRow) -> dict[str, Any]:
    """Returns what each runtime's file takes and how far it deviates; eager has no file of its own."""
    found: dict[str, Any] = {}
    for taken in study.taken.get(row["fingerprint"], ()):
        for name in runtimes(taken, "zip_bytes"):
            if f"{name}_artefact" in taken:
                found |= {f"{name}_{column}": taken[f"{name}_{column}"] for column in ("bytes", "zip_bytes")}
        for name in runtimes(taken, "deviation"):
            found[f"{name}_deviation"] = taken[f"{name}_deviation"]
    return found


def summary_table(runs: pd.DataFrame, compared: Mapping[str, Compared]) -> pd.DataFrame:
    """Returns one row per variant: means over its seeds, their spread, and what it was compared with.

    `test_mse_sd` and the like are standard deviations over seeds, missing for one seed. A speed-up is the geometric
    mean; its interval is the hull of the seeds' intervals, which leaves out 1 only if each of them does.

    Args:
        runs: see `runs_table`.
        compared: the comparisons, by metric.
    """
    grouped = runs.groupby(level=0, sort=False)
    names = ["dataset", "horizon", "model", "variant", "role", "method", "sparsity_requested", "finetuned"]
    names += ["scoring", "test_windows"]
    summary = grouped[names].first()
    summary["seeds"] = grouped.size()
    for name in runs.columns.drop([*names, "seed", "fingerprint"]):
        column = str(name)
        values = grouped[column]
        if column.endswith("_speedup"):
            logs = runs[column].astype(float).map(np.log)
            summary[column] = np.exp(logs.groupby(level=0, sort=False).mean())
        elif column.endswith("_speedup_low"):
            summary[column] = values.min()
        elif column.endswith("_speedup_high"):
            summary[column] = values.max()
        else:
            summary[column] = values.mean()
        if column.startswith("test_"):
            summary[f"{column}_sd"] = values.std(ddof=1)
    for metric, found in compared.items():
        prefix = "" if metric == "mse" else f"{metric}_"
        rows: dict[Variant, dict[str, Any]] = {}
        for comparison in found.every:
            floors = ", ".join(found.floor_names(comparison.variant))
            row = rows.setdefault(comparison.variant, {f"{prefix}saturated": floors})
            if comparison.against not in FLOORS:  # of naive forecasts there are several; comparisons.csv has them
                row |= _difference(comparison, f"{prefix}vs_{comparison.against.replace('-', '_')}")
        summary = summary.join(pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), dtype=object)))
    return summary


def by_variant(summary: pd.DataFrame) -> Rows:
    """Returns the rows of a summary, by variant and in its order."""
    found = ({str(key): value for key, value in row.items()} for row in summary.to_dict("records"))
    return dict(zip(summary.index, found, strict=True))


def _difference(comparison: Comparison, name: str) -> dict[str, Any]:
    interval = comparison.interval
    return {
        name: comparison.difference,
        f"{name}_low": np.nan if interval is None else interval.low,
        f"{name}_high": np.nan if interval is None else interval.high,
        f"{name}_verdict": comparison.verdict,
    }


def comparison_table(compared: Iterable[Compared]) -> pd.DataFrame:
    """Returns one row per comparison: the difference of the errors, its 95 % interval, the verdict and the records."""
    rows = [
        _names(comparison.variant)
        | {"metric": comparison.metric, "against": comparison.against, "other": comparison.other.full_name}
        | {"seeds": comparison.seeds, "reference": comparison.reference}
        | _difference(comparison, "difference")
        | {
            "records": " ".join(own for own, _ in comparison.fingerprints),
            "other_records": " ".join(other for _, other in comparison.fingerprints),
        }
        for found in compared
        for comparison in found.every
    ]
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Speed:
    """A method at one sparsity of one model, over the data sets and horizons where it was timed.

    Attributes:
        model: its name.
        method: of pruning.
        is_control: whether the method is one that is there to be beaten.
        sparsity_requested: share that was to be removed.
        promised: the dense model's multiply-adds over those with a non-zero weight, a geometric mean.
        measured: label of a runtime -> speed-up against the dense model.
        variants: what was timed, on each data set and horizon, fine-tuned or not.
    """

    model: str
    method: str
    is_control: bool
    sparsity_requested: float
    promised: float
    measured: Mapping[str, Interval]
    variants: tuple[Variant, ...]

    @property
    def cases(self) -> int:
        """How many data sets and horizons were timed."""
        return len({variant.case for variant in self.variants})


def speeds(rows: Rows, labels: Sequence[str]) -> list[Speed]:
    """Returns the speed-ups of all pruned variants that were timed, fine-tuned or not: that changes no time."""
    groups: dict[tuple[str, str, float], list[Variant]] = {}
    for key, row in rows.items():
        if key.pruned and key.sparsity_requested is not None and not missing(row.get("promised_speedup")):
            groups.setdefault((key.model, key.method or "", round(key.sparsity_requested, 6)), []).append(key)
    found = []
    for (model, method, sparsity), members in groups.items():
        timed = [key for key in members if any(speedup_in(rows[key], label) for label in labels)]
        ratios = {label: mean_speedup([rows[key] for key in timed], label) for label in labels}
        measured = {label: ratio for label, ratio in ratios.items() if ratio is not None}
        if measured:
            promised = float(np.exp(np.mean([np.log(rows[key]["promised_speedup"]) for key in timed])))
            control = members[0].is_control
            found.append(Speed(model, method, control, sparsity, promised, measured, tuple(timed)))
    return found


def speedup_in(row: StageRow, label: str) -> Interval | None:
    """Returns a variant's speed-up in a runtime, where it was timed in turn with its dense parent."""
    values = [row.get(f"{label}_speedup{end}") for end in ("", "_low", "_high")]
    return None if any(missing(value) for value in values) else Interval(*(float(value or 0) for value in values))


def mean_speedup(rows: Iterable[StageRow], label: str) -> Interval | None:
    """Returns the geometric mean of the speed-ups that were measured, with its interval."""
    found = [ratio for row in rows if (ratio := speedup_in(row, label)) is not None]
    return geometric_mean(found) if found else None


# Fronts of error and cost.

DIGITS = 5
"""Of every number: more than can be seen in a chart."""

EVERYWHERE = "all, relative to dense"

PLAIN, TUNED = "without fine-tuning", "fine-tuned"


def front_points(rows: Rows, columns: Sequence[str], pages: Mapping[Case | str, str]) -> list[dict[str, Any]]:
    """Returns what the page of fronts shows: each variant as measured, and over all cases relative to the dense model.

    Means over all cases are geometric; each data set counts alike in them.

    Args:
        rows: the summary.
        columns: the costs; a point has them as c0, c1 and so on.
        pages: where a case, and a model, is shown.
    """
    shown = ("test_mse", *columns)
    points = [
        _front_point(key, key.case.title, 1, [row.get(column) for column in shown], pages[key.case])
        for key, row in rows.items()
    ]
    dense = {(key.case, key.model): row for key, row in rows.items() if key.role == "dense"}
    groups: dict[tuple[str, ...], list[Variant]] = {}
    for key in rows:
        if key.role != "naive" and (key.case, key.model) in dense:
            groups.setdefault((key.model, key.name, key.role), []).append(key)
    for keys in groups.values():
        means = []
        for column in shown:
            logs: dict[str, list[float]] = {}
            for key in keys:
                own, whole = rows[key].get(column), dense[key.case, key.model].get(column)
                if own and whole and not missing(own) and not missing(whole):
                    logs.setdefault(key.case.dataset, []).append(float(np.log(own / whole)))
            means.append(np.exp(np.mean([np.mean(of) for of in logs.values()])) if logs else None)
        points.append(_front_point(keys[0], EVERYWHERE, len(keys), means, pages.get(keys[0].model, "")))
    return points


def _front_point(key: Variant, case: str, cases: int, values: Sequence[float | None], page: str) -> dict[str, Any]:
    tuning = {"pruned": PLAIN, "pruned+finetuned": TUNED}.get(key.role, "neither")
    known = (None if value is None or missing(value) or value <= 0 else value for value in values)
    error, *costs = (None if value is None else float(f"{value:.{DIGITS}g}") for value in known)
    return {
        **{"where": case, "cases": cases, "model": key.model, "series": key.series, "tuning": tuning, "page": page},
        **{"label": key.full_name, "filled": key.role != "pruned", "error": error},
        **{f"c{number}": value for number, value in enumerate(costs)},
    }
