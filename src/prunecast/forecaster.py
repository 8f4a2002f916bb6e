"""One object for a notebook: fit, predict, prune, export. Each step is the command line's verb of the same name."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from prunecast import api as facade
from prunecast.errors import UserError
from prunecast.inference import forecast_table, open_source
from prunecast.models.base import ForecastModel
from prunecast.models.io import load_metadata, load_model
from prunecast.store import new_directory


@dataclass(eq=False)
class Forecaster:
    """A forecaster with its scaler and its recipe.

        model = Forecaster("transformer", horizon=24).fit("synthetic-load")
        small = model.prune("structured-magnitude", 0.75, finetune_epochs=1)
        small.export("onnxruntime", "small.onnx")

    Attributes:
        model: name of a model.
        horizon: steps to forecast.
        lookback: steps of history.
        seed: of weights, shuffling and dropout.
        settings: "section.key=value" texts, any key of the recipe.
        numbers: of the last fit or pruning: errors, size, budget.
    """

    model: str = "transformer"
    horizon: int = 96
    lookback: int = 96
    seed: int = 1
    settings: Iterable[str] = ()
    numbers: dict[str, Any] = field(default_factory=dict, init=False)
    _home: Path | None = field(default=None, init=False, repr=False)
    _data: str | None = field(default=None, init=False, repr=False)

    def fit(self, data: str | Path | pd.DataFrame) -> Self:
        """Trains on a catalogue set, a file, or a table with one time column; scores on its last part.

        Raises:
            UserError: when a name, a setting or the data does not fit.
        """
        home = self._new_home()
        self._data = _as_source(data, home)
        self.numbers = facade.train(
            self.model,
            self._data,
            horizon=self.horizon,
            lookback=self.lookback,
            seed=self.seed,
            settings=self.settings,
            out=self.directory,
        )
        return self

    def predict(self, history: str | Path | pd.DataFrame, fill: str = "refuse") -> pd.DataFrame:
        """Returns what follows the last row of a file or table, in its own units: a time column and the targets.

        Raises:
            UserError: before `fit`, or when the history does not fit.
        """
        opened = open_source(self.directory)
        with tempfile.TemporaryDirectory() as folder:
            return forecast_table(opened, Path(_as_source(history, Path(folder))), fill)

    def prune(
        self,
        method: str,
        sparsity: float,
        *,
        of: str | None = None,
        finetune_epochs: int = 0,
        settings: Iterable[str] = (),
    ) -> Forecaster:
        """Returns a pruned forecaster; this one stays as it is. Arguments as of `prunecast prune`.

        Raises:
            UserError: before `fit`, or when the method or the budget does not fit.
        """
        source = self.directory
        pruned = Forecaster(self.model, self.horizon, self.lookback, self.seed, self.settings)
        pruned._new_home()
        pruned._data = self._data
        pruned.numbers = facade.prune(
            source,
            method,
            sparsity,
            of=of,
            finetune_epochs=finetune_epochs,
            data=self._data,
            settings=settings,
            out=pruned.directory,
        )
        return pruned

    def export(self, runtime: str, out: str | Path) -> dict[str, Any]:
        """Writes an artefact for a runtime; returns its path, size and deviation from PyTorch.

        Raises:
            UserError: before `fit`, when the runtime cannot run the model, or the file exists.
        """
        return facade.export(self.directory, runtime, data=self._data, out=Path(out))

    def save(self, out: str | Path) -> None:
        """Copies the model folder to a new place.

        Raises:
            UserError: before `fit`, or when the place exists or cannot be written.
        """
        with new_directory(Path(out)) as directory:
            shutil.copytree(self.directory, directory, dirs_exist_ok=True)

    @classmethod
    def load(cls, path: str | Path, data: str | Path | None = None) -> Forecaster:
        """Opens a model folder.

        Args:
            path: of the folder.
            data: where its data is, when it was trained on a file and is to be pruned or exported.

        Raises:
            UserError: when it is not a model folder.
        """
        values = load_metadata(Path(path)).model
        loaded = cls(values["name"], values["horizon"], values["lookback"])
        shutil.copytree(path, loaded._new_home() / "model")
        loaded._data = None if data is None else str(data)
        loaded.numbers = facade.summary(loaded.directory)
        return loaded

    @property
    def directory(self) -> Path:
        """The model folder; it goes with this object unless `save` has copied it.

        Raises:
            UserError: before `fit`.
        """
        if self._home is None:
            raise UserError("expected a fitted forecaster; call fit first")
        return self._home / "model"

    @property
    def module(self) -> ForecastModel:
        """The `nn.Module`, in eval mode and standardised units."""
        return load_model(self.directory).model

    def _new_home(self) -> Path:
        self._home = Path(tempfile.mkdtemp(prefix="prunecast-"))
        weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)
        return self._home


def _as_source(data: str | Path | pd.DataFrame, folder: Path) -> str:
    if not isinstance(data, pd.DataFrame):
        return str(data)
    path = folder / "table.parquet"
    data.to_parquet(path, index=False)
    return str(path)
