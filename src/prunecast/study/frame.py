"""Records as two tables, the only flattening of them: `stages` has one row a stage, `arrays` one row an array.

Reports, trackers, the Parquet export and published studies all read these columns. A column of a runtime starts with
its name: `onnxruntime_latency_ms`, `onnxruntime_speedup`, `onnxruntime_bytes` (`RUNTIME_COLUMNS`, `ARTEFACT_COLUMNS`).
A metric other than MSE and MAE has the columns `test_<metric>`, `paper_<metric>` and `validation_<metric>`, and its
errors by block are an array of the kind `block_<metric>`.

`arrays` has the columns fingerprint, kind, key and values:

    block_windows, block_mse, block_<metric>   key: test, paper or validation; one number for each block of windows
    latency_ms, reference_ms                   key: the runtime; raw samples
    epoch, epoch_steps, epoch_<name>           one number for each epoch of the training curve
    removed_weights                            key: names of the parameters, as JSON; zeros in each
    kept_units, units                          key: names of the groups, as JSON; units kept in each, and how many of
    forecast                                   key: channel, window, start and name of the window, as JSON; raw units
    history, truth                             fingerprint: name of the window; raw units, held once for all forecasts
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prunecast.errors import UserError
from prunecast.records import Accuracy, Blocks, Epoch, RunRecord
from prunecast.registry import METHODS

RECORDS_FILE = "records.parquet"
ARRAYS_TABLE = "arrays.parquet"

_Floats = NDArray[np.float64]

TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

Columns = Mapping[str, tuple[pa.DataType, str]]
"""Column -> its type, and where it stands in a record: names with dots between them."""

DESCRIBES: Columns = {
    "fingerprint": (TEXT, "fingerprint"),
    "stage": (TEXT, "stage"),
    "role": (TEXT, "role"),
    "label": (TEXT, "label"),
    "model": (TEXT, "model"),
    "dataset": (TEXT, "data.name"),
    "data_sha256": (TEXT, "data.sha256"),
    "data_rows": (WHOLE, "data.rows"),
    "lookback": (WHOLE, "recipe.model.lookback"),
    "horizon": (WHOLE, "recipe.model.horizon"),
    "seed": (WHOLE, "seed"),
    "scoring": (TEXT, "recipe.data.scoring"),
    "method": (TEXT, "recipe.prune.method"),
    "sparsity_requested": (REAL, "recipe.prune.sparsity"),
    "budget_of": (TEXT, "pruning.of"),
    "budget_unit": (TEXT, "pruning.unit"),
    "parent": (TEXT, "parent"),
    "reference": (TEXT, "reference"),
    "compared_with": (TEXT, "compared_with"),
    "machine": (TEXT, "environment.machine"),
    "processor": (TEXT, "environment.processor"),
    "accelerator": (TEXT, "environment.accelerator"),
    "machine_cores": (WHOLE, "environment.cores"),
    "machine_memory_bytes": (WHOLE, "environment.memory_bytes"),
    "system": (TEXT, "environment.system"),
    "python": (TEXT, "environment.python"),
    "commit": (TEXT, "environment.commit"),
    "dirty": (FLAG, "environment.dirty"),
    "started_at": (TEXT, "timing.started_at"),
    "machine_busy": (FLAG, "timing.machine_busy"),
}
"""What a stage is."""

JSON_COLUMNS: Mapping[str, str] = {
    "channels": "data.channels",
    "data_windows": "data.windows",
    "versions": "environment.versions",
    "unsupported": "unsupported",
    "imported": "imported",
    "recipe": "recipe",
}
"""Column -> where it stands in a record: what has parts of its own, as JSON with sorted keys."""

MEASURES: Columns = {
    "test_windows": (WHOLE, "test.windows"),
    "paper_windows": (WHOLE, "test_paper.windows"),
    "validation_windows": (WHOLE, "validation.windows"),
    "block_length": (WHOLE, "test.blocks.length"),
    "parameters": (WHOLE, "size.parameters"),
    "nonzero": (WHOLE, "size.nonzero"),
    "prunable": (WHOLE, "size.prunable"),
    "unused": (WHOLE, "size.dead"),
    "raw_bytes": (WHOLE, "size.raw_bytes"),
    "zip_bytes": (WHOLE, "size.zip_bytes"),
    "dense_macs": (WHOLE, "operations.dense_macs"),
    "effective_macs": (WHOLE, "operations.effective_macs"),
    "executed_macs": (WHOLE, "operations.executed_macs"),
    "budget_total": (WHOLE, "pruning.total"),
    "budget_requested": (WHOLE, "pruning.requested"),
    "budget_realised": (WHOLE, "pruning.realised"),
    "steps": (WHOLE, "fit.steps"),
    "best_epoch": (WHOLE, "fit.best_epoch"),
    "elapsed_s": (REAL, "timing.elapsed_s"),
}
"""What came of a stage, beside its errors."""

RUNTIME_COLUMNS: Columns = {
    "threads": (WHOLE, "threads"),
    "batch": (WHOLE, "batch"),
    "latency_ms": (REAL, "latency.median"),
    "p95_ms": (REAL, "latency.p95"),
    "reference_ms": (REAL, "reference.median"),
    "reference_p95_ms": (REAL, "reference.p95"),
    "speedup": (REAL, "speedup.ratio"),
    "speedup_low": (REAL, "speedup.low"),
    "speedup_high": (REAL, "speedup.high"),
    "operation_cut": (REAL, "operation_cut"),
    "realised_share": (REAL, "realised_share.ratio"),
    "peak_memory_bytes": (WHOLE, "peak_memory_bytes"),
    "baseline_memory_bytes": (WHOLE, "baseline_memory_bytes"),
    "start_ms": (REAL, "start_ms"),
    "load_ms": (REAL, "load_ms"),
    "first_forecast_ms": (REAL, "first_forecast_ms"),
    "others_share": (REAL, "beside.others_share"),
    "steal_share": (REAL, "beside.steal_share"),
    "energy_mj": (REAL, "energy.millijoules"),
}
"""Column, after the runtime's name -> its type, and where it stands in a timing."""

ARTEFACT_COLUMNS: Columns = {
    "artefact": (TEXT, "name"),
    "bytes": (WHOLE, "bytes"),
    "zip_bytes": (WHOLE, "zip_bytes"),
    "parity_windows": (WHOLE, "parity.windows"),
    "deviation": (REAL, "parity.max_deviation"),
    "mse_change": (REAL, "parity.mse_change"),
    "tolerance": (REAL, "parity.tolerance"),
}
"""Column, after the runtime's name -> its type, and where it stands in an artefact."""

SCORINGS: Mapping[str, str] = {"test": "test", "paper": "test_paper", "validation": "validation"}
"""What the columns of an error start with -> where the error stands in a record."""

_WINDOW = "window "
"""What the names of windows start with."""

_ARRAYS = pa.schema(
    [
        ("fingerprint", pa.dictionary(pa.int32(), TEXT)),
        ("kind", pa.dictionary(pa.int32(), TEXT)),
        ("key", pa.dictionary(pa.int32(), TEXT)),
        ("values", pa.list_(REAL)),
    ]
)
_SHORT = frozenset({"latency_ms", "reference_ms", "forecast", "history", "truth"})
"""Kinds of few digits, held in single precision in the file: half of their bytes are zeros then."""

_PANDAS = {WHOLE: pd.Int64Dtype(), FLAG: pd.BooleanDtype()}


StageRow = Mapping[str, Any]
"""A stage's columns, without those that it does not have."""


class Forecast(NamedTuple):
    """One stored forecast beside the truth, in raw units, for one channel; `start` is the time of its first step."""

    channel: str
    window: int
    start: str
    history: _Floats
    truth: _Floats
    forecast: _Floats


@dataclass(frozen=True)
class StudyFrame:
    """The records of a study as tables.

    Attributes:
        stages: one row a stage; what it does not have is missing.
        arrays: one row an array; see the module.
    """

    stages: pd.DataFrame
    arrays: pd.DataFrame

    @cached_property
    def rows(self) -> Mapping[str, StageRow]:
        """The stages by fingerprint, each with the columns that it has."""
        columns = self.stages.astype(object).where(self.stages.notna(), None).to_dict("records")
        found = ({str(name): value for name, value in row.items() if value is not None} for row in columns)
        return {row["fingerprint"]: row for row in found}

    @cached_property
    def _arrays(self) -> dict[tuple[str, str, str], _Floats]:
        names = (self.arrays[name] for name in ("fingerprint", "kind", "key"))
        return dict(zip(zip(*names, strict=True), self.arrays["values"], strict=True))

    @cached_property
    def _forecasts(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for fingerprint, kind, key in self._arrays:
            if kind == "forecast":
                found.setdefault(fingerprint, []).append(key)
        return found

    def values(self, fingerprint: str, kind: str, key: str = "") -> _Floats | None:
        """Returns an array of a stage, or None where it has no such array."""
        return self._arrays.get((fingerprint, kind, key))

    def forecasts(self, fingerprint: str) -> list[Forecast]:
        """Returns the forecasts that a stage keeps, in the order of its record."""
        found = []
        for key in self._forecasts.get(fingerprint, ()):
            channel, window, start, name = json.loads(key)
            history, truth = self._arrays[name, "history", ""], self._arrays[name, "truth", ""]
            forecast = self._arrays[fingerprint, "forecast", key]
            found.append(Forecast(channel, window, start, history, truth, forecast))
        return found

    def runtimes(self, column: str = "latency_ms") -> tuple[str, ...]:
        """Returns the runtimes that have a column of this name, in the order of the columns."""
        return runtimes(self.stages.columns, column)

    def metrics(self) -> tuple[str, ...]:
        """Returns the metrics that the test errors are given in, MSE first."""
        found = (name.removeprefix("test_") for name in self.stages.columns if name.startswith("test_"))
        return tuple(name for name in found if name != "windows")


def runtimes(columns: Iterable[str], column: str) -> tuple[str, ...]:
    """Returns the runtimes of which a column is among these, in their order."""
    fixed = {*DESCRIBES, *MEASURES}
    ending = f"_{column}"
    longer = tuple(f"_{other}" for other in (*RUNTIME_COLUMNS, *ARTEFACT_COLUMNS) if other.endswith(ending))
    found = (name for name in columns if name.endswith(ending) and not name.endswith(longer) and name not in fixed)
    return tuple(name.removesuffix(ending) for name in found)


def frame_of(records: Iterable[RunRecord]) -> StudyFrame:
    """Returns the tables of records, in their order."""
    every = list(records)
    return StudyFrame(_stages([_row(record) for record in every]), _array_frame(itertools.chain(*map(_arrays, every))))


_Cell = tuple[pa.DataType, Any]


def _row(record: RunRecord) -> dict[str, _Cell]:
    """Returns the columns of a stage; MSE and MAE always have theirs."""
    row = _taken(record, DESCRIBES)
    method = _method(row["method"][1])
    row["method_is_control"] = (FLAG, method is not None and method.is_control)
    row["method_control"] = (TEXT, None if method is None else method.control)
    own = None if method is None else method.recovery
    row["recovery"] = (TEXT, _at(record, "recipe.prune.recovery") or own)
    for prefix, place in SCORINGS.items():
        found: Accuracy | None = _at(record, place)
        errors = {"mse": None, "mae": None} if found is None else {"mse": found.mse, "mae": found.mae, **found.metrics}
        row |= {f"{prefix}_{name}": (REAL, value) for name, value in errors.items()}
    if record.test is not None:  # an import without data, say, was scored otherwise than its recipe says
        row["scoring"] = (TEXT, record.test.scoring)
    row |= _taken(record, MEASURES)
    for timing in record.timing.runtimes:
        row |= _taken(timing, RUNTIME_COLUMNS, f"{timing.runtime}_")
    for artefact in record.artefacts:
        row |= _taken(artefact, ARTEFACT_COLUMNS, f"{artefact.runtime}_")
    plain = {column: _at(record, place) for column, place in JSON_COLUMNS.items()}
    if record.imported is not None:
        plain["imported"] = record.imported.model_dump(mode="json")
    return row | {column: (TEXT, None if value is None else _json(value)) for column, value in plain.items()}


def _taken(source: Any, columns: Columns, prefix: str = "") -> dict[str, _Cell]:
    return {prefix + column: (kind, _at(source, place)) for column, (kind, place) in columns.items()}


def _at(source: Any, place: str) -> Any:
    """Returns what stands at a dotted place of a record, or None where there is no such place."""
    for name in place.split("."):
        source = source.get(name) if isinstance(source, dict) else getattr(source, name, None)
    return source


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@lru_cache
def _method(name: str | None) -> Any:
    """Returns a method of pruning; None for no name, and for one that a record has and nobody knows any more."""
    return METHODS.load(name) if name is not None and name in METHODS.entries else None


_Array = tuple[str, str, str, Sequence[float]]
"""Fingerprint, kind, key, values."""


def _arrays(record: RunRecord) -> Iterator[_Array]:
    """Yields the arrays of a stage.

    The history and the truth of a forecast bear a name made of them, so that all forecasts of a window share them.
    """
    name = record.fingerprint
    for prefix, place in SCORINGS.items():
        blocks: Blocks | None = _at(record, f"{place}.blocks")
        if blocks is not None:
            found = {"windows": blocks.windows, "mse": blocks.mse, "mae": blocks.mae, **blocks.metrics}
            for metric, values in found.items():
                yield name, f"block_{metric}", prefix, values
    for timing in record.timing.runtimes:
        yield name, "latency_ms", timing.runtime, timing.latency.samples
        if timing.reference is not None:
            yield name, "reference_ms", timing.runtime, timing.reference.samples
    if record.fit is not None and record.fit.epochs:
        for field in Epoch.model_fields:
            kind = field if field == "epoch" else f"epoch_{field}"
            yield name, kind, "", [getattr(epoch, field) for epoch in record.fit.epochs]
    if record.pruning is not None and record.pruning.removed_weights:
        removed = record.pruning.removed_weights
        yield name, "removed_weights", _json(list(removed)), list(removed.values())
    if record.pruning is not None and record.pruning.kept_units:
        groups = _json(list(record.pruning.kept_units))
        kept, units = zip(*record.pruning.kept_units.values(), strict=True)
        yield name, "kept_units", groups, kept
        yield name, "units", groups, units
    for example in record.examples:
        position = [example.channel, example.window, example.start]
        digest = hashlib.sha256(_json(position).encode())
        for values in (example.history, example.truth):
            digest.update(np.asarray(values, dtype="<f8").tobytes())
        window = f"{_WINDOW}{digest.hexdigest()[:20]}"
        yield name, "forecast", _json([*position, window]), example.forecast
        yield window, "history", "", example.history
        yield window, "truth", "", example.truth


def _stages(rows: Sequence[Mapping[str, _Cell]]) -> pd.DataFrame:
    types = {name: kind for row in rows for name, (kind, _) in row.items()}
    ordered = sorted(types, key=lambda name: name in JSON_COLUMNS)  # long texts last, all else as it was met
    columns = {name: pa.array([row.get(name, (None, None))[1] for row in rows], types[name]) for name in ordered}
    return _to_pandas(pa.table(columns))


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """Returns the table with whole numbers that stay whole where some are missing, and None for an absent text."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=_PANDAS.get)
    return frame


def _array_frame(arrays: Iterable[_Array]) -> pd.DataFrame:
    unique = {(name, kind, key): values for name, kind, key, values in arrays}
    frame = pd.DataFrame(list(unique), columns=["fingerprint", "kind", "key"], dtype=object)
    frame["values"] = pd.Series([np.asarray(values, dtype=np.float64) for values in unique.values()], dtype=object)
    return frame


def concat(frames: Iterable[StudyFrame]) -> StudyFrame:
    """Returns tables one below the other; of a stage that stands in several, the first counts."""
    parts = [frame for frame in frames if not frame.stages.empty]
    kept, seen = [], set[str]()
    for part in parts:
        new = part.stages[~part.stages["fingerprint"].isin(seen)]
        kept.append(new)
        seen |= set(new["fingerprint"])
    stages = pd.concat(kept, ignore_index=True) if kept else _stages([])
    arrays = pd.concat([part.arrays for part in parts], ignore_index=True) if parts else _array_frame([])
    return StudyFrame(stages, arrays.drop_duplicates(["fingerprint", "kind", "key"], ignore_index=True))


def selected(frame: StudyFrame, fingerprints: Iterable[str]) -> StudyFrame:
    """Returns the tables of these stages alone, in this order; of a stage that is not there, nothing."""
    places = {name: place for place, name in enumerate(fingerprints)}
    stages = frame.stages[frame.stages["fingerprint"].isin(places)]
    ordered = stages.sort_values("fingerprint", key=lambda names: names.map(places), kind="stable", ignore_index=True)
    names = frame.arrays["fingerprint"]
    kept = names.isin(places) | names.str.startswith(_WINDOW)
    return StudyFrame(ordered, frame.arrays[kept].reset_index(drop=True))


def write_records(stages: pd.DataFrame, file: Path, title: str = "") -> None:
    """Writes the rows of stages as one Parquet file; texts that recur, such as recipes, are held once."""
    table = pa.Table.from_pandas(stages, preserve_index=False).replace_schema_metadata({"title": title})
    pq.write_table(table, file, compression="zstd", compression_level=19, write_page_checksum=True)


def write_frame(frame: StudyFrame, folder: Path) -> None:
    """Writes both tables into a folder that exists: `records.parquet` and `arrays.parquet`."""
    write_records(frame.stages, folder / RECORDS_FILE)
    arrays = frame.arrays.assign(values=_short_kinds(frame.arrays, _single))
    ordered = arrays.sort_values("kind", kind="stable")  # alike packs well beside alike
    pq.write_table(
        pa.Table.from_pandas(ordered, schema=_ARRAYS, preserve_index=False).replace_schema_metadata(None),
        folder / ARRAYS_TABLE,
        compression="zstd",
        compression_level=19,
        use_dictionary=["fingerprint", "kind", "key"],
        write_page_checksum=True,
        column_encoding={"values.list.element": "BYTE_STREAM_SPLIT"},
    )


def _short_kinds(arrays: pd.DataFrame, change: Callable[[_Floats], _Floats]) -> pd.Series:
    """Returns the values of arrays, those of few digits changed."""
    pairs = zip(arrays["kind"], arrays["values"], strict=True)
    return pd.Series([change(array) if kind in _SHORT else array for kind, array in pairs], dtype=object)


def _single(values: _Floats) -> _Floats:
    """Returns what single precision makes of numbers, if their digits can be told from it; else the numbers."""
    near = values.astype(np.float32).astype(np.float64)
    return near if np.array_equal(_digits(near), values) else values


def _digits(values: _Floats) -> _Floats:
    """Returns numbers of single precision with the seven digits that they were written with."""
    size = np.abs(values)
    places = 6 - np.floor(np.log10(np.where(size > 0, size, 1.0)))
    scale = 10.0 ** np.clip(places, 0, 15)
    return np.asarray(np.rint(values * scale) / scale)


def _whole(values: _Floats) -> _Floats:
    """Returns numbers as they were before `_single`."""
    return _digits(values) if np.array_equal(values.astype(np.float32), values) else values


def read_frame(folder: Path) -> StudyFrame:
    """Reads both tables from a folder.

    Raises:
        UserError: when a file is missing or is not such a table.
    """
    stages = read_stages(folder / RECORDS_FILE, ["fingerprint"])
    plain = pa.schema([*((name, TEXT) for name in _ARRAYS.names[:3]), ("values", pa.list_(REAL))])
    arrays = _read_table(folder / ARRAYS_TABLE, ["values"]).cast(plain)
    found: pd.DataFrame = arrays.to_pandas()
    return StudyFrame(stages, found.assign(values=_short_kinds(found, _whole)))


def read_stages(file: Path, needed: Iterable[str]) -> pd.DataFrame:
    """Reads the table of stages alone.

    Raises:
        UserError: when the file is missing, is not whole, or lacks a column.
    """
    return _to_pandas(_read_table(file, needed))


def _read_table(file: Path, needed: Iterable[str]) -> pa.Table:
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"expected the tables of a study in {file.parent}, found no whole {file.name}: {reason}"
        ) from None
    missing = [column for column in needed if column not in table.column_names]
    if missing:
        raise UserError(f"expected a column {missing[0]!r} in {file}, found {table.column_names[:5]}")
    return table
