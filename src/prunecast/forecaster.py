"""One object for a notebook, in memory: fit, predict, backtest, prune. Only `save` and `export` write files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from prunecast.data.files import table_of
from prunecast.data.series import load_series, series_of, table_named
from prunecast.errors import UserError
from prunecast.inference import Forecasts, eager_predictor, forecast_table
from prunecast.models.base import ForecastModel
from prunecast.recipe import ExportConfig, checked
from prunecast.registry import DEFAULT_METHOD, RUNTIMES
from prunecast.resolve import training_recipe
from prunecast.results import Exported, ModelSummary
from prunecast.stages.export import export_alone
from prunecast.stages.model import TrainedModel
from prunecast.store import new_directory


@dataclass(eq=False)
class Forecaster:
    """A forecaster with its scaler and its recipe.

        model = Forecaster("transformer", horizon=24).fit("synthetic-load")
        small = model.prune("structured-magnitude", 0.75, finetune_epochs=1)
        small.export("onnxruntime", "small.onnx")

    Each method raises `UserError` where a name, a setting, data or a place does not fit, and all but `fit` and `load`
    before either has been called; the forecaster then stays as it was.

    Attributes:
        model: name of a model.
        horizon: steps to forecast.
        lookback: steps of history.
        seed: of weights, shuffling and dropout.
        settings: "section.key=value" texts, any key of the recipe.
    """

    model: str = "transformer"
    horizon: int = 96
    lookback: int = 96
    seed: int = 1
    settings: Sequence[str] = ()
    _known: TrainedModel | None = field(default=None, init=False, repr=False)

    def fit(self, data: str | Path | pd.DataFrame | pd.Series[Any]) -> Self:
        """Trains on what `load_series` takes: a catalogue set, a file or a data frame; scores on its last part."""
        table = table_of(data) if isinstance(data, pd.DataFrame | pd.Series) else None
        recipe = training_recipe(
            self.model,
            str(data) if table is None else table.name,
            horizon=self.horizon,
            lookback=self.lookback,
            seed=self.seed,
            settings=self.settings,
        )
        series = load_series(recipe.data) if table is None else series_of(table, recipe.data)
        self._known = TrainedModel.trained(recipe, series)
        return self

    def predict(
        self, history: str | Path | pd.DataFrame | pd.Series[Any], fill: str = "refuse", *, origin: str | None = None
    ) -> pd.DataFrame:
        """Returns what follows a file's or table's last row, or an `origin`: times and targets, in its own units."""
        return self._forecasts(history, fill, origin, None).frame()

    def backtest(
        self, history: str | Path | pd.DataFrame | pd.Series[Any], origins: int, fill: str = "refuse"
    ) -> Forecasts:
        """Returns forecasts one horizon apart, up to the last row: a `frame` of them, and the `errors` of channels."""
        return self._forecasts(history, fill, None, origins)

    def _forecasts(
        self, history: str | Path | pd.DataFrame | pd.Series[Any], fill: str, origin: str | None, origins: int | None
    ) -> Forecasts:
        saved = self._fitted.saved
        if saved.metadata.data is None:
            raise UserError("the model was imported without data: load it with data=NAME|FILE to forecast")
        table = (
            table_of(history)
            if isinstance(history, pd.DataFrame | pd.Series)
            else table_named(str(history), saved.metadata.data, saved.metadata.data.reading)
        )
        predict = eager_predictor(saved)
        return forecast_table(saved.metadata, predict, table, fill=fill, origin=origin, origins=origins)

    def prune(
        self,
        method: str = DEFAULT_METHOD,
        sparsity: float | None = None,
        *,
        of: str | None = None,
        recovery: str | None = None,
        finetune_epochs: int = 0,
        settings: Sequence[str] = (),
    ) -> Forecaster:
        """Returns a pruned forecaster; this one stays as it is. Arguments as of `prunecast prune`."""
        pruned = Forecaster(self.model, self.horizon, self.lookback, self.seed, self.settings)
        pruned._known = self._fitted.pruned(
            method, sparsity, of=of, recovery=recovery, finetune_epochs=finetune_epochs, settings=settings
        )
        return pruned

    def export(
        self,
        runtime: str,
        out: str | Path,
        *,
        int8: bool = False,
        quantizer: str | None = None,
        max_mse_increase: float | None = None,
        opset: int | None = None,
        batch: int | None = None,
    ) -> Exported:
        """Writes an artefact for a runtime; arguments as of `prunecast export`.

        Returns its path, size, deviation from PyTorch, and what it runs on.
        """
        path, fitted = Path(out), self._fitted
        asked = {"int8": int8, "quantizer": quantizer, "max_mse_increase": max_mse_increase}
        asked |= {"runtime": RUNTIMES.check(runtime), "opset": opset, "batch": batch}
        config = checked(ExportConfig, asked, "export")
        artefact = export_alone(fitted.saved, lambda: fitted.windows, config, path)
        return Exported.of(path, artefact, RUNTIMES.load(runtime).needs(config.opset))

    def save(self, out: str | Path) -> None:
        """Writes the model folder."""
        fitted = self._fitted
        with new_directory(Path(out)) as directory:
            fitted.write(directory)

    @classmethod
    def load(cls, path: str | Path, data: str | Path | None = None) -> Forecaster:
        """Opens a model folder.

        Args:
            path: of the folder.
            data: where its data is, when it was trained on a file and is to be pruned or exported, or imported without.
        """
        known = TrainedModel.opened(Path(path), None if data is None else str(data))
        values = known.saved.metadata.model
        loaded = cls(values["name"], values["horizon"], values["lookback"])
        loaded._known = known
        return loaded

    @property
    def numbers(self) -> ModelSummary:
        """The main numbers of the last fit or pruning: errors, size, budget."""
        return self._fitted.summary()

    @property
    def module(self) -> ForecastModel:
        """The `nn.Module`, in eval mode and standardised units."""
        return self._fitted.saved.model

    @property
    def _fitted(self) -> TrainedModel:
        if self._known is None:
            raise UserError("expected a fitted forecaster; call fit first")
        return self._known
