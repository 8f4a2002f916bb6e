"""PyTorch itself: runs a model directory as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunecast.export.base import Inputs, Predictor, Tolerance

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel


class Eager:
    """The runtime that needs no export."""

    name = "eager"
    title = "PyTorch"
    suffix = ""
    tolerance = Tolerance(1e-5, "the same operators; only the scaling to raw units and back is added")
    packages = ("torch", "numba")
    extra = None

    def needs(self, opset: int | None) -> str:
        """Returns what a model folder runs on."""
        return "PyTorch and Prunecast"

    def start(self) -> None:
        """Imports torch and the models."""
        import prunecast.export.raw
        import prunecast.models.io  # noqa: F401 - what `load` needs

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns None: it runs every model."""
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Raises, since there is nothing to write: this runtime loads the model directory."""
        raise AssertionError("eager loads the model directory; nothing is exported for it")

    def read(self, path: Path) -> SavedModel:
        """Returns the model of a model directory, see `Runtime`."""
        from prunecast.models.io import load_model

        return load_model(path)

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a model directory; it sets the number of torch's threads for the whole process."""
        return predictor_of(self.read(path), threads)


def predictor_of(saved: SavedModel, threads: int) -> Predictor:
    """Returns a callable on a model in memory; it sets the number of torch's threads for the whole process."""
    import torch

    from prunecast.export.raw import offset_of, raw_forecaster

    torch.set_num_threads(threads)
    module, offset = raw_forecaster(saved), offset_of(saved.metadata)

    def predict(inputs: Inputs) -> NDArray[np.floating]:
        tensors = [torch.from_numpy(inputs[name]) for name in ("history", "x_mark", "y_mark")]
        with torch.inference_mode():
            forecast: NDArray[np.floating] = module(*tensors).numpy()
        return forecast

    return offset.around(predict) if offset else predict


RUNTIME = Eager()
