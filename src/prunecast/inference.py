"""A model folder or an exported artefact, opened by its content: the same questions get the same answers from both.

An origin of a forecast is the time of the last row that it knows. B batch, L look-back, H horizon, O target channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunecast.batch import Batch
from prunecast.data import catalog
from prunecast.data.calendar import Times, local_times, season_of, wall_times
from prunecast.data.files import Table
from prunecast.data.gaps import REFUSE
from prunecast.data.scaler import Scaler
from prunecast.data.series import KnownRows, Series, known_rows, load_series
from prunecast.data.windows import Prepared, WindowShape, prepare, window_to_forecast
from prunecast.errors import UserError, near
from prunecast.export.base import AnotherRuntimes, Predictor, Runtime, of_any_batch
from prunecast.export.eager import predictor_of
from prunecast.export.raw import artefact_scaler, raw_inputs
from prunecast.models.base import ForecasterConfig
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts, load_model
from prunecast.recipe import DataConfig, ReadOptions
from prunecast.records import Accuracy, Scoring
from prunecast.registry import RUNTIMES
from prunecast.results import ErrorRow
from prunecast.train.evaluate import score
from prunecast.train.metrics import Errors, MetricContext, bound_metrics, metric_context

EAGER = "eager"
"""The runtime that runs a model folder as it is."""

_READING = set(ReadOptions.model_fields)

Load = Callable[[DataConfig], Series]
"""Reads the series of a data section; a verb that asks several times gives one that remembers."""


@dataclass(frozen=True)
class Artifact:
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

    @property
    def is_folder(self) -> bool:
        """Whether it is a model folder, not an exported file."""
        return self.runtime == EAGER

    def with_data(self, data: str | None, load: Load = load_series) -> Artifact:
        """Returns the artefact with names and scaler from `data`, where it was imported without; see `with_data`."""
        return replace(self, saved=with_data(self.saved, data, load))

    def load(self, threads: int) -> Predictor:
        """Returns the callable of its runtime, from raw units to raw units."""
        if self.is_folder:
            return predictor_of(self.saved, threads)
        runtime: Runtime = RUNTIMES.load(self.runtime)
        return runtime.load(self.path, threads)

    def predictor(self) -> Callable[[Batch], Tensor]:
        """Returns a function from a batch to its forecast, both in standardised units."""
        if self.is_folder:  # no detour by raw units: on as many threads, the scores of training come back
            return eager_predictor(self.saved)
        predict, metadata = of_any_batch(self.load(threads=1)), self.metadata
        scaler = artefact_scaler(metadata).select([metadata.channels.index(target) for target in metadata.targets])
        return lambda batch: torch.from_numpy(scaler.transform(predict(raw_inputs(metadata, batch)))).float()

    def scores(
        self, prepared: Prepared, scoring: Scoring, metrics: Sequence[str] = ()
    ) -> tuple[Accuracy, Accuracy, Errors]:
        """Returns the errors on the validation and the test part, the latter in further metrics too, and in detail."""
        predict, errors = self.predictor(), Errors(metric_context(prepared))
        test = score(predict, prepared.test, "test", scoring, bound_metrics(prepared, metrics), errors=errors)
        return score(predict, prepared.validation, "validation", scoring), test, errors

    def shipped(self, runtime: str, folder: Path) -> Path:
        """Returns what a runtime loads: this artefact, this folder, or an export of it into a new folder.

        Raises:
            UserError: when it is an artefact of another runtime, or the runtime cannot run it.
        """
        if self.runtime == runtime:
            return self.path
        if not self.is_folder:
            raise UserError(f"{self.path} is for the runtime {self.runtime!r}, and {runtime!r} was asked for")
        kind: Runtime = RUNTIMES.load(runtime)
        if not kind.suffix:
            if (reason := kind.unsupported(self.saved.model)) is not None:
                raise UserError(f"runtime {runtime!r} cannot run this model: {reason}")
            return self.path
        folder.mkdir()
        return kind.export(self.saved, folder / f"model{kind.suffix}")


def eager_predictor(saved: SavedModel) -> Callable[[Batch], Tensor]:
    """Returns a function from a batch to a model's forecast, both in standardised units."""
    model = saved.model.eval()

    def forecast(batch: Batch) -> Tensor:
        with torch.inference_mode():
            y_BHO: Tensor = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        return y_BHO

    return forecast


def open_artifact(path: Path) -> Artifact:
    """Opens a model folder or an exported artefact. Its content says what it is; an ending only says whom to ask first.

    A file that names its runtime is that one's under any name.

    Raises:
        UserError: when the path is neither.
    """
    if path.is_dir():
        return Artifact(path, EAGER, load_model(path))
    if not path.exists():
        raise UserError(f"{path} does not exist: expected a model folder or an exported artefact")
    ending, refusals = runtime_of(path), []
    of_files = (name for name in RUNTIMES.names() if RUNTIMES.load(name).suffix)
    for name in sorted(of_files, key=lambda name: name != ending):
        runtime: Runtime = RUNTIMES.load(name)
        try:
            return Artifact(path, name, runtime.read(path))
        except UserError as error:
            if name == ending and not isinstance(error, AnotherRuntimes):
                raise  # that is what it claims to be, so that is what is wrong with it
            refusals.append(f"{name}: {error}")
    raise UserError(f"{path} is no model: expected a model folder or an exported artefact ({'; '.join(refusals)})")


def runtime_of(path: Path) -> str | None:
    """Returns the runtime whose artefacts end like this path; None when no runtime's do."""
    suffixes = {name: RUNTIMES.load(name).suffix for name in RUNTIMES.names()}
    return next((name for name, suffix in suffixes.items() if suffix and suffix == path.suffix), None)


def check_same_inputs(opened: Sequence[Artifact]) -> None:
    """Sees to it that models can be timed in turn: on the same windows.

    Raises:
        UserError: when they take other channels, marks or lengths than the first.
    """
    first, *others = (
        (item.metadata.channels, item.metadata.model["marks"], window_shape(item.metadata.model)) for item in opened
    )
    for item, inputs in zip(opened[1:], others, strict=True):
        if inputs != first:
            raise UserError(f"{item.path} takes other inputs than {opened[0].path}: channels, marks, or window lengths")


# A model and its data


def metadata_of(config: ForecasterConfig, prepared: Prepared, data: DataConfig, dense_parameters: int) -> ModelMetadata:
    """Returns the metadata of a model on prepared data.

    Args:
        config: of the model.
        prepared: its data; a forecast goes through its scaler.
        data: the data section that it was prepared by.
        dense_parameters: how many the dense parent has.
    """
    channels = prepared.facts.channels
    targets = range(len(channels)) if config.targets is None else config.targets
    scaler, covariate_scaler = prepared.scaler, prepared.covariate_scaler
    return ModelMetadata(
        model=config.model_dump(mode="json"),
        channels=channels,
        targets=tuple(channels[target] for target in targets),
        covariates=data.covariates,
        freq=data.freq,
        dense_parameters=dense_parameters,
        scaler=ScalerFacts(mean=tuple(scaler.mean), std=tuple(scaler.std)),
        covariate_scaler=ScalerFacts(mean=tuple(covariate_scaler.mean), std=tuple(covariate_scaler.std)),
        frequency=prepared.series.frequency,
        data=DataSource(
            **data.model_dump(include=_READING - {"name"}),
            name=prepared.facts.name,
            sha256=prepared.facts.sha256,
            split=data.split,
            reading=None if data.name in catalog.names() else prepared.series.reading,
        ),
    )


def with_data(saved: SavedModel, data: str | None, load: Load = load_series) -> SavedModel:
    """Returns a model whose metadata knows its data: itself, unless it was imported without.

    Such a model takes the channels of `data` (catalogue name or file) in their order, and the scaler that its training
    part gives.

    Raises:
        UserError: when the data is needed and not named, not to be found, or has not as many channels.
    """
    metadata = saved.metadata
    if metadata.data is not None:
        return saved
    if data is None:
        raise UserError("the model was imported without data; say what it was trained on with --data NAME|FILE")
    config = DataConfig(name=data, freq=metadata.freq)
    series = load(config)
    if len(series.channels) != len(metadata.channels):
        found = len(series.channels)
        raise UserError(f"{series.name}: expected {len(metadata.channels)} channels, as the model has, found {found}")
    shape = window_shape(metadata.model)
    prepared = prepare(series, config, lookback=shape.lookback, horizon=shape.horizon, label_len=shape.label_len)
    return replace(saved, metadata=metadata_of(saved.model.config, prepared, config, metadata.dense_parameters))


def windows_for(metadata: ModelMetadata, data: str | None, load: Load = load_series) -> Prepared:
    """Returns the windows that a model is scored on, standardised by the model's own scaler.

    They are cut from `data` (catalogue name or file); without, from the set of the catalogue that it was trained on.

    Raises:
        UserError: when the data is not to be found, or lacks one of the model's channels.
    """
    config = data_config(metadata, data)
    series = load(config)
    missing = [name for name in metadata.channels if name not in series.channels]
    if missing:
        raise UserError(
            f"{series.name}: no column {missing[0]!r}, which the model needs; {near(missing[0], series.channels)}"
        )
    _check_step(series, metadata)
    shape = window_shape(metadata.model)
    return prepare(
        series.select(metadata.channels, metadata.targets),
        config,
        lookback=shape.lookback,
        horizon=shape.horizon,
        label_len=shape.label_len,
        scalers=(_scaler(metadata.scaler), _scaler(metadata.covariate_scaler)),
    )


def data_config(metadata: ModelMetadata, data: str | None) -> DataConfig:
    """Returns the data section that fits a model that knows its data."""
    assert metadata.data is not None
    if data is None and metadata.data.name not in catalog.names():
        raise UserError(f"the model was trained on the file {metadata.data.name!r}; say where it is with --data FILE")
    name = metadata.data.name if data is None else data
    reading: dict[str, Any] = {} if name in catalog.names() else metadata.data.model_dump(include=_READING)
    found = metadata.data.reading
    if reading and found is not None:
        form = {"date_format": found.form} if found.form is not None and "%" in found.form else {}
        zone = {"timezone": found.zone} if found.zone is not None and "/" in found.zone else {}
        reading = form | zone | reading
    return DataConfig(
        **reading | {"name": name},
        freq=metadata.freq,
        covariates=metadata.covariates,
        split=metadata.data.split,
    )


def window_shape(model: Mapping[str, Any]) -> WindowShape:
    """Returns the shape of the windows of a model with these values in its config."""
    return WindowShape(*(int(model[key]) for key in ("lookback", "horizon", "label_len")))


def _scaler(facts: ScalerFacts) -> Scaler:
    return Scaler.of(facts.mean, facts.std)


def _check_step(series: Series, metadata: ModelMetadata) -> None:
    if metadata.frequency is not None and series.frequency != metadata.frequency:
        raise UserError(f"{series.name}: expected the model's step {metadata.frequency!r}, found {series.frequency!r}")


# Forecasts: from the end of a table, from an earlier origin, or from many. N origins


ORIGIN = "origin"
"""The column of origins, where there are several."""

HISTORY_DRAWN, CHANNELS_DRAWN = 3, 12
"""Horizons of history in a picture, and the most channels: more nobody would see."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts from one or several origins.

    Attributes:
        rows: that they start from.
        time_name: what the table calls its times.
        targets: names of the forecast channels.
        several: whether the origins have a column of their own.
        origins: (N,) times.
        times: (N, H).
        raw_NHO: what is forecast, in raw units.
        errors: of each channel against what the rows know of those times; empty where they know nothing.
    """

    rows: KnownRows
    time_name: str
    targets: tuple[str, ...]
    several: bool
    origins: Times
    times: Times
    raw_NHO: NDArray[np.float64]
    errors: tuple[ErrorRow, ...]

    def frame(self) -> pd.DataFrame:
        """Returns a row for each origin and step: the origin where there are several, the time, then the targets."""
        zone = self.rows.found.reading.zone
        return self._table(lambda times: local_times(times, zone))

    def written(self) -> pd.DataFrame:
        """Returns the rows of `frame`, their times in the form that the table itself has."""
        return self._table(self.rows.texts_of)

    def _table(self, times_as: Callable[[Times], Any]) -> pd.DataFrame:
        horizon = self.times.shape[1]
        columns: dict[str, Any] = {ORIGIN: times_as(np.repeat(self.origins, horizon))} if self.several else {}
        columns[self.time_name] = times_as(self.times.reshape(-1))
        values_TO = self.raw_NHO.reshape(-1, len(self.targets))
        return pd.DataFrame(columns | {name: values_TO[:, n] for n, name in enumerate(self.targets)})

    def draw(self, path: Path) -> None:
        """Writes a picture as PNG: for each of the first channels its history, and what is forecast of it."""
        import altair as alt
        import vl_convert

        frame, reading, shown = self.rows.found.values_TN, self.rows.found.reading, list(self.targets[:CHANNELS_DRAWN])
        origin = int(frame.index.searchsorted(self.origins[0], side="right"))
        known = frame[shown].iloc[max(0, origin - HISTORY_DRAWN * self.times.shape[1]) : self.rows.last + 1]
        history = known.set_axis(wall_times(known.index.to_numpy(), reading.zone)).loc[: self.times[-1, -1]]
        lines = [("history", history)] + [
            (f"forecast {n}", pd.DataFrame(values_HO[:, : len(shown)], wall_times(times, reading.zone), shown))
            for n, (times, values_HO) in enumerate(zip(self.times, self.raw_NHO, strict=True))
        ]
        points = [
            {"line": line, "what": line.split()[0], "channel": name, "time": str(time), "value": value}
            for line, part in lines
            for time, values in part.iterrows()
            for name, value in values.dropna().items()
        ]
        chart = alt.Chart(alt.Data(values=points)).mark_line().properties(width=700, height=120)
        chart = chart.encode(
            x=alt.X("time:T", title=None),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("what:N", title=None),
            detail="line:N",
        ).facet(row=alt.Row("channel:N", title=None, sort=shown))
        path.write_bytes(vl_convert.vegalite_to_png(chart.resolve_scale(y="independent").to_dict(), scale=2))


def forecast_table(
    metadata: ModelMetadata,
    predict: Callable[[Batch], Tensor],
    table: Table,
    *,
    fill: str = REFUSE,
    origin: str | None = None,
    origins: int | None = None,
) -> Forecasts:
    """Returns what follows a table's last row, an earlier one, or many.

    Args:
        metadata: of a model that knows its data.
        predict: from a batch to a forecast, in standardised units.
        table: the known rows; with covariates those to come as well.
        fill: what to do with gaps in the look-back.
        origin: the last time to know.
        origins: how many forecasts to make, one horizon apart, the last of which ends where the table does.

    Raises:
        UserError: when the table does not fit the model, or a forecast is not a finite number.
    """
    assert metadata.data is not None
    if origin is not None and origins is not None:
        raise UserError("expected an origin or a number of origins, found both; leave one out")
    if origins is not None and origins < 1:
        raise UserError(f"origins: expected at least 1, found {origins}")
    source, shape = metadata.data, window_shape(metadata.model)
    rows = known_rows(
        table,
        metadata.channels,
        metadata.covariates,
        options=source,
        known=source.reading,
        step=metadata.frequency,
    )
    scalers = _scaler(metadata.scaler), _scaler(metadata.covariate_scaler)
    scaler = scalers[0].select([metadata.channels.index(target) for target in metadata.targets])
    known, times, raw = [], [], []
    for history in rows.histories(shape.lookback, shape.horizon, fill, origin=origin, origins=origins):
        _check_step(history, metadata)
        window = window_to_forecast(history, shape, metadata.freq, *scalers)
        known.append(history.times[-1])
        times.append(window.times[shape.lookback :])
        raw.append(_raw(predict(window.batch(torch.tensor([0])))[0], scaler, table.name))
    names = [*([] if origins is None else [ORIGIN]), history.time_name]
    for name in names:
        if name in metadata.targets or names.count(name) > 1:
            raise UserError(f"a column is called {name!r}, like one of the forecast's own; rename it in the file")
    found = Forecasts(
        rows, names[-1], metadata.targets, origins is not None, np.array(known), np.stack(times), np.stack(raw), ()
    )
    if origin is None and origins is None:
        return found
    return replace(found, errors=_errors(found, scaler, season_of(history.frequency)))


def _raw(y_HO: Tensor, scaler: Scaler, source: str) -> NDArray[np.float64]:
    """Returns a forecast in raw units, in as many digits as float32 gives around the mean.

    Raises:
        UserError: when it is not a finite number.
    """
    raw_HO = scaler.inverse(y_HO.numpy())
    if not np.isfinite(raw_HO).all():
        raise UserError(
            f"{source}: the forecast is not a finite number: expected the weights of a sound training, and a "
            "history not too far from the values that it saw"
        )
    digits = 7 - np.floor(np.log10(scaler.std)).astype(int)
    return np.stack([column.round(count) for column, count in zip(raw_HO.T, digits, strict=True)], axis=1)


def _errors(found: Forecasts, scaler: Scaler, season: int) -> tuple[ErrorRow, ...]:
    """Returns the errors of each channel, MASE against the seasonal naive forecast before the first origin."""
    channels, times = list(found.targets), pd.DatetimeIndex(found.times.reshape(-1))
    truth_NHO = found.rows.found.values_TN[channels].reindex(times).to_numpy().reshape(found.raw_NHO.shape)
    if np.isnan(truth_NHO).all():
        return ()
    before_TO = found.rows.before(found.origins[0])[channels].to_numpy()
    training, forecast, truth = (
        torch.from_numpy(scaler.transform(raw)) for raw in (before_TO, found.raw_NHO, truth_NHO)
    )
    errors = Errors(MetricContext(training, season, torch.from_numpy(scaler.mean), torch.from_numpy(scaler.std)))
    errors.add(forecast, truth)
    return errors.channels(channels)
