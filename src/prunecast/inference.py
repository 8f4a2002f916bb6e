"""A model folder or an exported artefact, opened: the same questions get the same answers from both.

B batch, H horizon, O target channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prunecast.batch import Batch
from prunecast.data import catalog
from prunecast.data.calendar import Times
from prunecast.data.files import read_table
from prunecast.data.scaler import Scaler
from prunecast.data.series import Series, history_of, load_series
from prunecast.data.windows import Prepared, WindowShape, prepare, window_to_forecast
from prunecast.errors import UserError, near
from prunecast.export.base import Predictor, Runtime
from prunecast.export.raw import raw_inputs
from prunecast.measure.operations import count_operations
from prunecast.measure.size import measure_size
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts, load_metadata
from prunecast.recipe import DataConfig
from prunecast.records import Timing
from prunecast.registry import RUNTIMES
from prunecast.resolve import metadata_of
from prunecast.store import read_record

Row = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """Something that forecasts.

    Attributes:
        path: the folder or file.
        runtime: name of the runtime that runs it.
        saved: the model in it.
    """

    path: Path
    runtime: str
    saved: SavedModel

    @property
    def metadata(self) -> ModelMetadata:
        """What is known about the model but its tensors."""
        return self.saved.metadata

    def with_data(self, data: str | None) -> Opened:
        """Returns this model, which learns what its data says of it where it was imported without; see `with_data`."""
        return replace(self, saved=with_data(self.saved, data))

    def load(self, threads: int) -> Predictor:
        """Returns the callable of its runtime."""
        runtime: Runtime = RUNTIMES.load(self.runtime)
        return runtime.load(self.path, threads)

    def predictor(self) -> Callable[[Batch], Tensor]:
        """Returns a function from a batch to its forecast, both in standardised units."""
        if self.path.is_dir():  # no detour by raw units: on as many threads, the scores of training come back
            model = self.saved.model
            return lambda batch: cast("Tensor", model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF))
        return _standardised(self.load(threads=1), self.metadata)

    def sizes(self) -> Row:
        """Returns parameters, those that are never used, non-zeros and the share that is gone from the dense parent."""
        size = measure_size(self.saved)
        return {
            "parameters": size.parameters,
            "dead": size.dead,
            "nonzero": size.nonzero,
            "sparsity": sparsity(size.nonzero, self.metadata.dense_parameters),
        }

    def shipped(self, runtime: str, folder: Path) -> Path:
        """Returns what a runtime loads: this artefact, this folder, or an export of it into a new folder.

        Raises:
            UserError: when it is an artefact of another runtime, or the runtime cannot run it.
        """
        if self.runtime == runtime:
            return self.path
        if self.path.is_file():
            raise UserError(f"{self.path} is for the runtime {self.runtime!r}, and {runtime!r} was asked for")
        kind: Runtime = RUNTIMES.load(runtime)
        folder.mkdir()
        return kind.export(self.saved, folder / f"model{kind.suffix}")

    def measured(self, timing: Timing, shipped: Path) -> Row:
        """Returns what `prunecast measure` says of it."""
        size, operations = measure_size(self.saved), count_operations(self.saved)
        row: Row = {
            "path": str(self.path),
            "runtime": timing.runtime,
            "parameters": size.parameters,
            "dead": size.dead,
            "nonzero": size.nonzero,
            "bytes": shipped.stat().st_size if shipped.is_file() else size.raw_bytes,
            "macs": operations.dense_macs,
            "effective_macs": operations.effective_macs,
            "executed_macs": operations.executed_macs,
            "peak_memory_bytes": timing.peak_memory_bytes,
            "latency_ms": timing.latency.model_dump(include={"median", "p95", "n"}),
        }
        if timing.speedup is not None:
            row["speedup"] = timing.speedup.model_dump()
        return row


def sparsity(nonzero: int, dense_parameters: int) -> float:
    """Returns the share of the dense parent's parameters that is gone; 0 for a model without any."""
    return 1 - nonzero / dense_parameters if dense_parameters else 0.0


def _standardised(predict: Predictor, metadata: ModelMetadata) -> Callable[[Batch], Tensor]:
    chosen = [metadata.channels.index(target) for target in metadata.targets]
    mean_O = torch.tensor([metadata.scaler.mean[channel] for channel in chosen], dtype=torch.float64)
    std_O = torch.tensor([metadata.scaler.std[channel] for channel in chosen], dtype=torch.float64)

    def forecast(batch: Batch) -> Tensor:
        raw_BHO = torch.from_numpy(predict(raw_inputs(metadata, batch)))
        return ((raw_BHO.double() - mean_O) / std_O).float()

    return forecast


def summary(directory: Path) -> Row:
    """Returns the main numbers of a model folder under the keys that the command line promises.

    Errors are None for a model that was imported without data.
    """
    record, metadata = read_record(directory), load_metadata(directory)
    test, validation = record.test, record.validation
    assert record.size is not None
    numbers: Row = {
        "path": str(directory),
        "mse": None if test is None else test.mse,
        "mae": None if test is None else test.mae,
        **({} if test is None else test.metrics),
        "val_mse": None if validation is None else validation.mse,
        "windows": None if test is None else test.windows,
        "scoring": None if test is None else test.scoring,
        "parameters": record.size.parameters,
        "dead": record.size.dead,
        "nonzero": record.size.nonzero,
        "sparsity": sparsity(record.size.nonzero, metadata.dense_parameters),
    }
    if record.pruning is not None:
        numbers |= record.pruning.model_dump(include={"of", "unit", "total", "requested", "realised"})
    return numbers


def open_source(path: Path) -> Opened:
    """Opens a model folder or an exported artefact.

    Raises:
        UserError: when the path is neither.
    """
    if path.is_dir():
        return _opened(path, "eager")
    if not path.exists():
        raise UserError(f"{path} does not exist: expected a model folder or an exported artefact")
    runtime = runtime_of(path)
    if runtime is None:
        expected = ", ".join(_suffixes())
        raise UserError(f"{path} is no model: expected a model folder or a file that ends in {expected}")
    return _opened(path, runtime)


def check_same_inputs(opened: Sequence[Opened]) -> None:
    """Sees to it that models can be timed in turn: on the same windows.

    Raises:
        UserError: when they take other channels, marks or lengths than the first.
    """
    first, *others = (
        (item.metadata.channels, item.metadata.model["marks"], window_shape(item.metadata)) for item in opened
    )
    for item, inputs in zip(opened[1:], others, strict=True):
        if inputs != first:
            raise UserError(f"{item.path} takes other inputs than {opened[0].path}: channels, marks, or window lengths")


def runtime_of(path: Path) -> str | None:
    """Returns the runtime whose artefacts end like this path; None when no runtime's do."""
    return _suffixes().get(path.suffix)


def _suffixes() -> Mapping[str, str]:
    """Returns the runtime of each ending; one that runs the model folder itself has none."""
    suffixes = {RUNTIMES.load(name).suffix: name for name in RUNTIMES.names()}
    return {suffix: name for suffix, name in sorted(suffixes.items()) if suffix}


def _opened(path: Path, name: str) -> Opened:
    runtime: Runtime = RUNTIMES.load(name)
    return Opened(path, name, runtime.read(path))


def prepared_for_metadata(metadata: ModelMetadata, data: str | None) -> Prepared:
    """Returns the windows that a model is scored on, standardised by the model's own scaler.

    Args:
        metadata: of the model.
        data: catalogue name or file; None for what the model was trained on, when the catalogue has it.

    Raises:
        UserError: when the data is not to be found, or lacks one of the model's channels.
    """
    config = data_config(metadata, data)
    series = load_series(config)
    missing = [name for name in metadata.channels if name not in series.channels]
    if missing:
        raise UserError(
            f"{series.name}: no column {missing[0]!r}, which the model needs; {near(missing[0], series.channels)}"
        )
    _check_step(series, metadata)
    shape = window_shape(metadata)
    return prepare(
        series.select(metadata.channels, metadata.targets),
        config,
        lookback=shape.lookback,
        horizon=shape.horizon,
        label_len=shape.label_len,
        scalers=(_scaler(metadata.scaler), _scaler(metadata.covariate_scaler)),
    )


def with_data(saved: SavedModel, data: str | None) -> SavedModel:
    """Returns a model whose metadata knows its data: itself, unless it was imported without.

    Such a model takes the channels of `data` in their order, and the scaler that its training part gives.

    Args:
        saved: the model.
        data: catalogue name or file.

    Raises:
        UserError: when the data is needed and not named, not to be found, or has not as many channels.
    """
    metadata = saved.metadata
    if metadata.data is not None:
        return saved
    if data is None:
        raise UserError("the model was imported without data; say what it was trained on with --data NAME|FILE")
    config = DataConfig(name=data, freq=metadata.freq)
    series = load_series(config)
    if len(series.channels) != len(metadata.channels):
        found = len(series.channels)
        raise UserError(f"{series.name}: expected {len(metadata.channels)} channels, as the model has, found {found}")
    shape = window_shape(metadata)
    prepared = prepare(series, config, lookback=shape.lookback, horizon=shape.horizon, label_len=shape.label_len)
    return replace(saved, metadata=metadata_of(saved.model.config, prepared, config, metadata.dense_parameters))


def data_config(metadata: ModelMetadata, data: str | None) -> DataConfig:
    """Returns the data section that fits a model that knows its data."""
    assert metadata.data is not None
    if data is None and metadata.data.name not in catalog.names():
        raise UserError(f"the model was trained on the file {metadata.data.name!r}; say where it is with --data FILE")
    name = metadata.data.name if data is None else data
    from_catalog = name in catalog.names()
    return DataConfig(
        name=name,
        freq=metadata.freq,
        covariates=metadata.covariates,
        time_column=None if from_catalog else metadata.data.time_column,
        fill="refuse" if from_catalog else metadata.data.fill,
        split=metadata.data.split,
    )


def window_shape(metadata: ModelMetadata) -> WindowShape:
    """Returns the shape of a model's windows."""
    return WindowShape(*(int(metadata.model[key]) for key in ("lookback", "horizon", "label_len")))


def _scaler(facts: ScalerFacts) -> Scaler:
    return Scaler.of(facts.mean, facts.std)


def forecast_table(opened: Opened, file: Path, fill: str) -> pd.DataFrame:
    """Returns what follows a file's last row: a time column and one column per target, in the file's units.

    Raises:
        UserError: when the file does not fit the model.
    """
    metadata = opened.metadata
    if metadata.data is None:
        raise UserError(
            f"{opened.path} was imported without data, so that its scaler is not known; "
            "import the checkpoint with --data NAME|FILE to forecast"
        )
    history = history_of(
        read_table(file),
        metadata.channels,
        metadata.covariates,
        time_column=metadata.data.time_column,
        fill=fill,
    )
    _check_step(history, metadata)
    shape = window_shape(metadata)
    scalers = _scaler(metadata.scaler), _scaler(metadata.covariate_scaler)
    window = window_to_forecast(history, shape, metadata.freq, *scalers)
    y_HO = opened.load(threads=1)(raw_inputs(metadata, window.batch(torch.tensor([0]))))[0]
    return _table(window.times[shape.lookback :], y_HO, metadata.targets, metadata.data.time_column or "date")


def _check_step(series: Series, metadata: ModelMetadata) -> None:
    if metadata.frequency is not None and series.frequency != metadata.frequency:
        raise UserError(f"{series.name}: expected the model's step {metadata.frequency!r}, found {series.frequency!r}")


def _table(times: Times, y_HO: np.ndarray[Any, Any], targets: Sequence[str], time_column: str) -> pd.DataFrame:
    if time_column in targets:
        raise UserError(f"a target is called {time_column!r}, like the column of times; rename it in the file")
    columns: Mapping[str, Any] = {time_column: times} | {name: y_HO[:, n] for n, name in enumerate(targets)}
    return pd.DataFrame(columns)
