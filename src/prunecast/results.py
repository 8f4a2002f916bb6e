"""What the verbs give back: typed results, each of which can say itself as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunecast.records import (
        Accuracy,
        Artefact,
        BudgetOf,
        Imported,
        Operations,
        OperatorTime,
        Profile,
        Pruning,
        Scoring,
        Size,
        Timing,
    )


ROWS_SHOWN = 8
"""Rows of a table of errors on a terminal; the JSON has them all."""

BUDGETS_SHOWN: Mapping[BudgetOf, str] = {"prunable": "weights", "model": "parameters", "operations": "operations"}
"""What a share is a share of -> in a word."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a verb gives back."""

    def to_json(self) -> dict[str, Any]:
        """Returns the result as the command line writes it."""
        return {entry.name: _plain(getattr(self, entry.name)) for entry in fields(self)}

    def shown(self) -> dict[str, Any]:
        """Returns what a terminal shows."""
        return self.to_json()

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns rows for a terminal that are not in the JSON, by title; where it has some, they stand for its own."""
        return {}

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return 0


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.to_json()
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class Names(Result):
    """What can be named, of one kind: a row each, of which `name` is the first entry."""

    kind: str
    rows: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the rows under the name of their kind."""
        return {self.kind: list(self.rows)}


@dataclass(frozen=True, kw_only=True)
class Methods(Names):
    """The methods of pruning; `families` has what they are listed under, by name and in order."""

    families: Mapping[str, str]

    def shown(self) -> dict[str, Any]:
        """Returns nothing beside the tables."""
        return {}

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns the methods of each family, narrow enough for a small terminal."""
        found: dict[str, list[Mapping[str, Any]]] = {title: [] for title in self.families.values()}
        for row in sorted(self.rows, key=lambda row: row["name"] != row["family"]):  # the best of its kind comes first
            of = row["blocks"] if row["budget"] == "pattern" else BUDGETS_SHOWN[row["of"]]
            shown = {"name": row["name"], "removes": of, "recovery": row["recovery"], "data": row["data"]}
            found[self.families[row["family"]]].append(shown | {"summary": row["summary"]})
        return found


@dataclass(frozen=True, kw_only=True)
class DataSet(Result):
    """A data set of the catalogue; `found` says where it lies on this machine, None for nowhere."""

    name: str
    about: str
    found: str | None


@dataclass(frozen=True, kw_only=True)
class Catalog(Result):
    """The data sets that have a name."""

    datasets: tuple[DataSet, ...]


@dataclass(frozen=True, kw_only=True)
class Fetched(Result):
    """A data set that was downloaded and verified, or was there already."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Downloads(Result):
    """What was fetched."""

    datasets: tuple[Fetched, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Result):
    """Errors in standardised units, and sizes in numbers; errors are None for a model that was imported without data.

    `metrics` has the test errors that the recipe asks for besides these. `sparsity` is the share of the dense parent's
    parameters that is gone, `dead` counts those that are never used.
    """

    mse: float | None = None
    mae: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    val_mse: float | None
    windows: int | None = None
    scoring: Scoring | None = None
    parameters: int
    dead: int
    nonzero: int
    sparsity: float

    @classmethod
    def of(cls, test: Accuracy | None, validation: Accuracy | None, size: Size, dense_parameters: int) -> Evaluation:
        """Returns the numbers of a model; `dense_parameters` is how many its dense parent has."""
        scored = {} if test is None else test.model_dump(include={"mse", "mae", "metrics", "windows", "scoring"})
        return Evaluation(
            **scored,
            val_mse=None if validation is None else validation.mse,
            **size.model_dump(include={"parameters", "dead", "nonzero"}),
            sparsity=1 - size.nonzero / dense_parameters if dense_parameters else 0.0,
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers, those of further metrics under their names."""
        known = super().to_json()
        metrics: dict[str, float] = known.pop("metrics")
        return known | metrics


@dataclass(frozen=True, kw_only=True)
class ErrorRow(Result):
    """Errors by metric, of a channel by its `name` or of a step of the horizon; None where one has no meaning.

    `raw` has those that have a unit in the channel's own; MAPE is a share of the truth.
    """

    name: str | int
    errors: Mapping[str, float | None]
    raw: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the errors under the names of their metrics, those in raw units as `raw_NAME`."""
        of = "step" if isinstance(self.name, int) else "name"
        return {of: self.name} | dict(self.errors) | {f"raw_{name}": value for name, value in self.raw.items()}


@dataclass(frozen=True, kw_only=True)
class DetailedEvaluation(Evaluation):
    """An evaluation with its test errors channel by channel, and step by step over all channels."""

    channels: tuple[ErrorRow, ...]
    steps: tuple[ErrorRow, ...]

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns the rows for a terminal: the first channels, and some of the steps."""
        stride = -(-len(self.steps) // ROWS_SHOWN)
        return {
            "channels": [row.to_json() for row in self.channels[:ROWS_SHOWN]],
            "steps": [row.to_json() for row in self.steps[stride - 1 :: stride]],
        }


_BUDGET = ("of", "unit", "total", "requested", "realised")


@dataclass(frozen=True, kw_only=True)
class ModelSummary(Evaluation):
    """The main numbers of a model; `path` is its folder, None for one in memory; `pruning` says how it was pruned."""

    path: Path | None
    pruning: Pruning | None = None
    imported: Imported | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers, then those of the budget and the origins of the model's config, where there are any."""
        known = super().to_json()
        known = {"path": known.pop("path")} | known
        del known["pruning"], known["imported"]
        if self.pruning is not None:
            known |= self.pruning.model_dump(include={"method", *_BUDGET, "given_nonzero"})
        if self.imported is not None:
            known |= self.imported.model_dump(mode="json", exclude={"sha256"})
        return known

    def shown(self) -> dict[str, Any]:
        """Returns the numbers, those of the budget in words: they count from the model that was given."""
        known, pruning = self.to_json(), self.pruning
        if pruning is None:
            return known
        of = f"{pruning.total:,} {pruning.unit} of the given model"
        words = {"removed": f"{pruning.realised:,} of the {of} ({pruning.requested:,} asked for)"}
        if pruning.given_nonzero is not None:
            words["given"] = (
                f"a model that was pruned before, with {pruning.given_nonzero:,} parameters other than zero"
            )
        return {name: value for name, value in known.items() if name not in {*_BUDGET, "given_nonzero"}} | words


@dataclass(frozen=True, kw_only=True)
class ModelMeasurement(Result):
    """Size, operations, memory, time and energy of one model.

    `timing` has what was measured; its speed-up and what it realises of the operations that are gone are against the
    first model. `machine_busy` says whether other stages, or other programs, took processor time beside it.
    """

    path: Path
    parameters: int
    dead: int
    nonzero: int
    bytes: int
    operations: Operations
    timing: Timing
    machine_busy: bool
    profile: Profile | str | None = None
    """Where the time of a call goes, where that was asked for; a text says why a runtime cannot tell."""

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers; of a speed-up and what follows from it only where there is one."""
        timing, operations = self.timing, self.operations
        known = super().to_json()
        known |= {"runtime": timing.runtime, "threads": timing.threads, "batch": timing.batch}
        known |= {
            "macs": operations.dense_macs,
            "effective_macs": operations.effective_macs,
            "executed_macs": operations.executed_macs,
            "peak_memory_bytes": timing.peak_memory_bytes,
            "model_memory_bytes": timing.model_memory_bytes,
            "latency_ms": timing.latency.model_dump(include={"median", "p95", "n"}),
            "windows_per_s": timing.windows_per_s,
            "cold_start_ms": {
                "total": timing.cold_start_ms,
                "start": timing.start_ms,
                "load": timing.load_ms,
                "first_forecast": timing.first_forecast_ms,
            },
            "energy": None if timing.energy is None else timing.energy.model_dump(exclude_none=True),
            "beside": None if timing.beside is None else timing.beside.model_dump(),
        }
        if timing.speedup is not None:
            known["speedup"] = timing.speedup.model_dump()
        if timing.realised_share is not None:
            known |= {"operation_cut": timing.operation_cut, "realised_share": timing.realised_share.model_dump()}
        if self.profile is None or isinstance(self.profile, str):
            known["profile"] = None if self.profile is None else {"absent": self.profile}
        else:
            known["profile"] = self.profile.model_dump() | {"accounted": self.profile.accounted}
        left_out = {"timing", "operations", *(("profile",) if self.profile is None else ())}
        return {name: value for name, value in known.items() if name not in left_out}


@dataclass(frozen=True, kw_only=True)
class Measurements(Result):
    """What was measured, in the order that was asked for."""

    models: tuple[ModelMeasurement, ...]

    def shown(self) -> dict[str, Any]:
        """Returns what stands below the tables: why there is no energy."""
        reasons = [model.timing.energy.absent for model in self.models if model.timing.energy is not None]
        found = {"energy": f"not known: {reasons[0]}"} if any(reasons) else {}
        untold = [model.profile for model in self.models if isinstance(model.profile, str)]
        return found | ({"time by operator": f"not known: {untold[0]}"} if untold else {})

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns rows for each model, times in ms, a speed-up with its interval; the JSON has more.

        Tables that a terminal of 80 columns shows.
        """
        kinds = {"models": _sized, "times": _timed, "start, memory, energy": _needed}
        found = {title: [row(model) for model in self.models] for title, row in kinds.items()}
        for model in self.models:
            if (profile := model.profile) is not None and not isinstance(profile, str):
                title = f"time by operator of {model.path}: {profile.accounted:.0%} of {profile.whole_ms:.3g} ms"
                found[title] = [_operator(entry, profile) for entry in profile.operators[:ROWS_SHOWN]]
        return found


def _sized(model: ModelMeasurement) -> Mapping[str, Any]:
    beside = model.timing.beside
    others = "" if beside is None else f" ({beside.others_share + beside.steal_share:.0%} by others)"
    return {
        "path": str(model.path),
        "runtime": model.timing.runtime,
        "nonzero": model.nonzero,
        "bytes": model.bytes,
        "macs": model.operations.dense_macs,
        "machine": f"busy{others}" if model.machine_busy else "free",
    }


def _operator(entry: OperatorTime, profile: Profile) -> Mapping[str, Any]:
    share = entry.ms / profile.whole_ms
    return {"operator": entry.operator, "nodes": entry.count, "ms": entry.ms, "share": f"{share:.1%}"}


def _megabytes(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 1)


def _timed(model: ModelMeasurement) -> Mapping[str, Any]:
    timing = model.timing
    up, realised = timing.speedup, timing.realised_share
    return {
        "path": str(model.path),
        "median ms": timing.latency.median,
        "p95 ms": timing.latency.p95,
        "windows/s": timing.windows_per_s,
        "speed-up": "-" if up is None else f"{up.ratio:.2f} ({up.low:.2f} to {up.high:.2f})",
        "of the cut": "-" if realised is None else f"{realised.ratio:.0%}",
    }


def _needed(model: ModelMeasurement) -> Mapping[str, Any]:
    timing = model.timing
    return {
        "path": str(model.path),
        "load ms": timing.load_ms,
        "cold start ms": timing.cold_start_ms,
        "memory MB": _megabytes(timing.peak_memory_bytes),
        "of the model": _megabytes(timing.model_memory_bytes),
        "energy mJ": None if timing.energy is None else timing.energy.millijoules,
    }


@dataclass(frozen=True, kw_only=True)
class Exported(Result):
    """An artefact; `max_deviation` from PyTorch is in standard deviations of a channel, `mse_change` relative.

    Of an 8-bit one also its MSE over all test windows in its own runtime, and the weights that stay in float32; of one
    for small devices the bytes of its constants and of the memory that a forecast takes.
    """

    path: Path
    bytes: int
    max_deviation: float
    mse_change: float
    needs: str
    mse: float | None = None
    float32: tuple[str, ...] | None = None
    flash_bytes: int | None = None
    memory_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that are known of it."""
        return {name: value for name, value in super().to_json().items() if value is not None}

    @classmethod
    def of(cls, path: Path, artefact: Artefact, needs: str) -> Exported:
        """Returns what is known of an artefact that was held against PyTorch; `needs` says what it runs on."""
        parity = artefact.parity
        assert parity is not None
        return cls(
            path=path,
            bytes=artefact.bytes,
            max_deviation=parity.max_deviation,
            mse_change=parity.mse_change,
            needs=needs,
            mse=None if artefact.test is None else artefact.test.mse,
            float32=None if artefact.test is None else artefact.float32,
            flash_bytes=artefact.flash_bytes,
            memory_bytes=artefact.memory_bytes,
        )


@dataclass(frozen=True, kw_only=True)
class ForecastFile(Result):
    """A forecast that was written, from its first time to its last, and its errors where the truth is known.

    Errors are in the file's own units; `origins` is None for a single forecast.
    """

    path: Path
    rows: int
    start: str
    end: str
    origins: int | None = None
    errors: tuple[ErrorRow, ...] = ()
    plot: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what was written, and MAE, RMSE, MAPE and MASE of each channel where they are known."""
        known = {name: value for name, value in super().to_json().items() if value not in (None, [])}
        if self.errors:
            known["errors"] = [
                {"name": row.name} | {name: {**row.errors, **row.raw}[name] for name in ("mae", "rmse", "mape", "mase")}
                for row in self.errors
            ]
        return known

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns the errors of the first channels."""
        return {"errors": self.to_json()["errors"][:ROWS_SHOWN]} if self.errors else {}


@dataclass(frozen=True, kw_only=True)
class StudyStatus(Result):
    """How far a study is: counts of stages, what went wrong, labels of what runs now, timings of each machine."""

    stages: int
    done: int
    running: bool
    waiting: int
    failed: list[str]
    damaged: list[str]
    now: list[str]
    timed_on: Mapping[str, int]
    by_stage: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SentRecords(Result):
    """Records that were handed on; of `records`, `written` were not there yet."""

    to: str
    records: int
    written: int


@dataclass(frozen=True, kw_only=True)
class Compressed(Result):
    """What a search within budgets came to.

    Attributes:
        path: the artefact; None where the time was over before there was one.
        folder: its model.
        report: the page; None where a budget is out of reach.
        met: whether every budget is held, that of the loss by the upper end of its interval.
        sure: how likely the loss is within its budget.
        verdict: the same in sentences, with why nothing better was found.
        budgets: a row each: name, asked, reached, met, cheapest and dense.
        chosen: name of the candidate.
        tried: a row for each candidate.
        dense: errors, sizes and times of the given model; compressed, dlinear: the same of the result and of DLinear.
        steps: what cutting each kind of units, zeros and 8 bits gave, one after the other.
        prediction: how far predicted times were from measured ones.
    """

    path: Path | None
    folder: Path | None
    report: Path | None
    met: bool
    sure: float | None
    verdict: tuple[str, ...]
    budgets: tuple[Mapping[str, Any], ...]
    chosen: str | None
    tried: tuple[Mapping[str, Any], ...]
    dense: Mapping[str, Any]
    compressed: Mapping[str, Any] | None
    dlinear: Mapping[str, Any] | None = None
    steps: tuple[Mapping[str, Any], ...] = ()
    prediction: Mapping[str, Any] | None = None

    def shown(self) -> dict[str, Any]:
        """Returns the verdict and where the result lies."""
        files = {"artefact": self.path, "model": self.folder, "report": self.report}
        return {"verdict": list(self.verdict)} | {name: str(path) for name, path in files.items() if path is not None}

    def tables(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Returns the budgets, and the given model beside the compressed one."""
        both = {"given": self.dense, "compressed": self.compressed, "DLinear": self.dlinear}
        rows = [
            {"model": name, "test MSE": found["mse"], "validation MSE": found["val_mse"]}
            | {"parameters": found["parameters"], "bytes": found.get("bytes"), "median ms": _median(found)}
            for name, found in both.items()
            if found is not None
        ]
        return {"budgets": list(self.budgets), "models": rows if self.compressed is not None else []}

    @property
    def exit_code(self) -> int:
        """3 where a budget is not met; the nearest was written."""
        return 0 if self.met else 3


def _median(found: Mapping[str, Any]) -> float | None:
    return (found.get("latency_ms") or {}).get("median")
