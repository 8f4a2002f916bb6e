"""What a runtime is: it says what it cannot run, writes a model, and gives back something to call.

An artefact takes raw units: `history` (B, L, C), `x_mark` (B, L, F) and `y_mark` (B, T, F), and gives `forecast`
(B, H, targets) in raw units; inputs that a model does not use are absent from its file and ignored here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import UserError

if TYPE_CHECKING:  # a process that only runs an artefact must not import torch
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel

Inputs = Mapping[str, NDArray[np.float32]]
"""history, x_mark, y_mark."""

Predictor = Callable[[Inputs], NDArray[np.float32]]
"""Raw inputs -> raw forecast (B, H, targets)."""


@dataclass(frozen=True)
class Tolerance:
    """How far a runtime may be from eager PyTorch, in training standard deviations, and why it is at all."""

    value: float
    cause: str


class Runtime(Protocol):
    """One way of running a model. A new one is one file, one registry line and at most one extra.

    Its module imports neither torch nor the package that runs the models: both wait for a call.

    Attributes:
        name: as in `registry.RUNTIMES`.
        title: for people.
        suffix: file name ending of its artefacts; empty when it runs the model directory itself.
        tolerance: what its forecasts are held to.
        packages: whose versions a record has because they compute what is timed.
        extra: of Prunecast, that installs them; None where every installation has them.
    """

    name: str
    title: str
    suffix: str
    tolerance: Tolerance
    packages: tuple[str, ...]
    extra: str | None

    def start(self) -> None:
        """Imports what it runs models with, whose memory is not a model's.

        Raises:
            MissingExtra: when that is not installed.
        """

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why this runtime cannot run the model, or None when it can.

        Raises:
            MissingExtra: when the package that it runs models with is not installed.
        """

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the artefact and returns its path.

        Raises:
            UserError: when the model is not supported, or the file cannot be written.
        """

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside an artefact.

        Raises:
            UserError: when the file is not an artefact of this runtime.
        """

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on `threads` processor threads.

        Raises:
            MissingExtra: when the package that it runs models with is not installed.
            UserError: when the file is not an artefact of this runtime, or one that this version cannot run.
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
            UserError: when the model is not supported, nothing in it can be in 8 bits, or the file cannot be written.
        """


FILE_LIMIT_BYTES = 2**31 - 2**24
"""One protobuf message holds 2 GB; the graph itself and the metadata need a little of it."""


class OnnxFiles:
    """What runtimes that take ONNX files share: how these are written, in 32 bits or in 8, and read back.

    A runtime adds what it says of itself, `start` and `load`. Torch and onnx are imported only where a file is written
    or its model read back: not in a process that runs one.
    """

    name: str
    suffix: str

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why the model does not fit into one file, or None when it does."""
        needed = sum(tensor.nbytes for tensor in model.state_dict().values())
        if needed > FILE_LIMIT_BYTES:
            return f"its weights take {needed / 1e9:.1f} GB, and one ONNX file holds 2 GB"
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the ONNX file, whole or not at all, and returns its path, see `Runtime`."""
        from prunecast.export.onnx import onnx_bytes

        return self._written(saved, path, onnx_bytes)

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the ONNX file with matrix products in 8 bits, whole or not at all, see `Int8Runtime`."""
        from prunecast.export.int8 import int8_bytes

        return self._written(saved, path, partial(int8_bytes, windows=windows))

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a file that `export` or `export_int8` wrote, see `Runtime`."""
        from prunecast.export.onnx import read_model

        return read_model(path)

    def _written(self, saved: SavedModel, path: Path, content: Callable[[SavedModel], bytes]) -> Path:
        from prunecast.store import new_file

        reason = self.unsupported(saved.model)
        if reason is not None:
            raise UserError(f"runtime {self.name!r} cannot run this model: {reason}")
        whole = content(saved)
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(whole)
        return path
