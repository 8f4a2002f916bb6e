"""What a runtime is: it says what it cannot run, writes a model, and gives back something to call.

An artefact takes raw units: `history` (B, L, C), `x_mark` (B, L, F) and `y_mark` (B, T, F), and gives `forecast`
(B, H, targets) in raw units; inputs that a model does not use are absent from its file and ignored here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # a process that only runs an artefact must not import torch
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel

Inputs = Mapping[str, NDArray[np.float32]]
"""history, x_mark, y_mark."""

Predictor = Callable[[Inputs], NDArray[np.float32]]
"""Raw inputs -> raw forecast (B, H, targets)."""


class Runtime(Protocol):
    """One way of running a model. A new one is one file, one registry line and at most one extra."""

    name: str
    suffix: str
    """File name ending of its artefacts; empty when it runs the model directory itself."""

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why this runtime cannot run the model, or None when it can.

        Raises:
            MissingExtra: when the package that it runs models with is not installed.
        """

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the artefact and returns its path.

        Raises:
            UserError: when the model is not supported.
        """

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside an artefact.

        Raises:
            UserError: when the file is not an artefact of this runtime.
        """

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on `threads` processor threads.

        Raises:
            UserError: when the file is not an artefact of this runtime.
        """


@runtime_checkable
class Int8Runtime(Runtime, Protocol):
    """A runtime that can also store and multiply the weights in 8 bits."""

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the artefact with matrix products in 8 bits and returns its path; `read` and `load` take it too.

        Args:
            saved: the model.
            path: of the artefact.
            windows: real inputs of the training part in batches, by which the products' inputs are scaled.

        Raises:
            UserError: when the model is not supported, or nothing in it can be in 8 bits.
        """
