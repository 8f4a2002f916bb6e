"""What a runtime is: it says what it cannot run, writes a model, and gives back something to call.

An artefact takes raw units: `history` (B, L, C), `x_mark` (B, L, F) and `y_mark` (B, T, F), and gives `forecast`
(B, H, targets) in raw units; inputs that a model does not use are absent from its file and ignored here. Where the
level of a channel is large, the file takes and gives values less an offset that it names; a predictor does that itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import UserError

if TYPE_CHECKING:  # a process that only runs an artefact must not import torch
    from prunecast.models.base import ForecastModel
    from prunecast.models.io import SavedModel
    from prunecast.records import Profile, Quantizer

Inputs = Mapping[str, NDArray[np.floating]]
"""history, x_mark, y_mark."""

Predictor = Callable[[Inputs], NDArray[np.floating]]
"""Raw inputs -> raw forecast (B, H, targets)."""

OFFSET_KEY = "prunecast_offset"
"""Key of the offset in the metadata of an ONNX file; absent where there is none."""

BATCH_KEY = "prunecast_batch"
"""Key of the number of windows in one call in the metadata of an ONNX file; absent where it is free."""

RUNTIME_KEY, UNNAMED = "prunecast_runtime", "onnxruntime"
"""Key of the runtime's name in the metadata of an ONNX file, and the runtime whose files go without: they are any's."""

LESS_OFFSET = "_less_offset"
"""What the names of its input and its output end in where there is one: whoever feeds raw values is told."""


@dataclass(frozen=True, eq=False)
class Offset:
    """What is taken off raw values before float32 numbers hold them, and added again to the forecast.

    A load of 1e9 with a deviation of 7 has, as a float32 number, one digit that tells anything. The model would hear
    nothing of the rest.

    Attributes:
        history: (C,) raw units; 0 for a channel without.
        forecast: (O,) raw units, the same of the targets.
    """

    history: NDArray[np.float64]
    forecast: NDArray[np.float64]

    def __bool__(self) -> bool:
        return bool(self.history.any())

    def text(self) -> str:
        """Returns it as JSON."""
        return json.dumps({"history": self.history.tolist(), "forecast": self.forecast.tolist()})

    @classmethod
    def of(cls, text: str | None, path: Path) -> Offset | None:
        """Returns the offset in a text that `text` gave; None where there is none.

        Raises:
            UserError: when it is another text.
        """
        if text is None:
            return None
        try:
            values = json.loads(text)
            return cls(*(np.array(values[name], dtype=np.float64) for name in ("history", "forecast")))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}: expected numbers as its offset, found others; export it again") from None

    def around(self, predict: Predictor) -> Predictor:
        """Returns a callable from raw units to raw units, in float64, for one that takes and gives them less this."""

        def predict_raw(inputs: Inputs) -> NDArray[np.floating]:
            return predict(self.taken_off(inputs)).astype(np.float64) + self.forecast

        return predict_raw

    def taken_off(self, inputs: Inputs) -> Inputs:
        """Returns raw inputs less this, in float32."""
        history = inputs["history"].astype(np.float64) - self.history
        return {**inputs, "history": history.astype(np.float32)}


@dataclass(frozen=True)
class FixedBatch:
    """A predictor of an artefact that was exported for one number of windows; it refuses every other.

    Attributes:
        predict: from raw inputs to a raw forecast.
        batch: how many windows it takes in one call.
        path: of the artefact.
    """

    predict: Predictor
    batch: int
    path: Path

    def __call__(self, inputs: Inputs) -> NDArray[np.floating]:
        """Returns the raw forecast of `batch` windows.

        Raises:
            UserError: when there are more or fewer.
        """
        found = len(inputs["history"])
        if found != self.batch:
            raise UserError(
                f"{self.path}: expected {self.batch} window{'s' * (self.batch > 1)} in one call, for which it was "
                f"exported, found {found}; export it for this batch"
            )
        return self.predict(inputs)

    def in_turn(self, inputs: Inputs) -> NDArray[np.floating]:
        """Returns the raw forecast of any number of windows, of as many calls as it takes."""
        count, forecasts = len(inputs["history"]), []
        for start in range(0, count, self.batch):
            chosen = np.arange(start, start + self.batch).clip(max=count - 1)  # the last window fills the last call
            forecasts.append(self.predict({name: values[chosen] for name, values in inputs.items()}))
        return np.concatenate(forecasts)[:count]


def whole_batches(inputs: Inputs, batch: int) -> Iterator[Inputs]:
    """Yields windows in batches of one size; those that make up no whole one are left out."""
    for start in range(0, len(inputs["history"]) - batch + 1, batch):
        yield {name: values[start : start + batch] for name, values in inputs.items()}


def of_any_batch(predict: Predictor) -> Predictor:
    """Returns a predictor that takes any number of windows, as nearly all do by themselves."""
    return predict.in_turn if isinstance(predict, FixedBatch) else predict


class AnotherRuntimes(UserError):
    """Raised where an artefact is whole, and names another runtime as the one that it was written for."""


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

    def needs(self, opset: int | None) -> str:
        """Returns what an artefact runs on, at the least.

        Args:
            opset: version of ONNX operators that was asked for; None for the usual one, and where there is none.
        """

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
            AnotherRuntimes: when the file names another runtime.
            UserError: when the file is not an artefact of this runtime.
        """

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on `threads` processor threads.

        Raises:
            MissingExtra: when the package that it runs models with is not installed.
            UserError: when the file is not an artefact of this runtime, or one that this version cannot run.
        """


class Quantised(Protocol):
    """A model in 8 bits, to be written with some of its weights or none in float32.

    Attributes:
        weights: names of those that are in 8 bits.
    """

    weights: tuple[str, ...]

    def export(self, path: Path, float32: Collection[str] = ()) -> Path:
        """Writes the artefact and returns its path; the products of the weights `float32` stay as they were."""


@runtime_checkable
class ProfilingRuntime(Runtime, Protocol):
    """A runtime that can say where the time of a call goes."""

    def profile(self, path: Path, threads: int, inputs: Inputs, calls: int) -> Profile:
        """Returns the time of each kind of operator over `calls` calls, after one that does not count."""


@runtime_checkable
class Int8Runtime(Runtime, Protocol):
    """A runtime that can also store and multiply the weights in 8 bits.

    Attributes:
        quantizers: how; the first where nothing else is asked for.
    """

    quantizers: tuple[Quantizer, ...]

    def quantised(self, saved: SavedModel, windows: Iterable[Inputs]) -> Quantised:
        """Returns the model with matrix products in 8 bits; `read` and `load` take its artefacts too.

        Args:
            saved: the model.
            windows: real inputs of the training part in batches, by which the products' inputs are scaled.

        Raises:
            UserError: when the model is not supported, or nothing in it can be in 8 bits.
        """

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the artefact with all that can be in 8 bits and returns its path, see `quantised`."""


@runtime_checkable
class FixedBatchRuntime(Runtime, Protocol):
    """A runtime whose files may be, or are, for one number of windows in a call; `export` takes it as `batch`."""

    fixed_batch: Literal[True]


@runtime_checkable
class SparseRuntime(Runtime, Protocol):
    """A runtime that leaves zeros out of the products of some weights."""

    def sparse_weights(self, model: ForecastModel) -> tuple[str, ...]:
        """Returns the names of those weights: of what pays there, as the runtime judges by their zeros."""


@runtime_checkable
class EmbeddedRuntime(Runtime, Protocol):
    """A runtime whose artefacts say what they take of a device, once they are written."""

    def footprint(self, path: Path) -> tuple[int, int]:
        """Returns the bytes of constants, and of memory for a forecast, of an artefact."""


OPSET = 20
"""Version of ONNX operators that a file has unless asked otherwise."""

OLDEST_RUNTIME: Mapping[int, tuple[int, str]] = {
    18: (8, "1.14"),
    19: (9, "1.15"),
    20: (9, "1.17"),
    21: (10, "1.18"),
}
"""Version of the operators -> version of the file format that has it, and the ONNX Runtime that first read both."""

FILE_LIMIT_BYTES = 2**31 - 2**24
"""One protobuf message holds 2 GB; the graph itself and the metadata need a little of it."""


class OnnxFiles:
    """What runtimes that take ONNX files share: how these are written, in 32 bits or in 8, and read back.

    A runtime adds what it says of itself, `oldest`, `start` and `load`. Torch and onnx are imported only where a file
    is written or its model read back: not in a process that runs one.
    """

    name: str
    suffix: str
    quantizers: tuple[Quantizer, ...]
    fixed_batch: Literal[True] = True

    def needs(self, opset: int | None) -> str:
        """Returns the versions of a file, and of the package that reads it."""
        version = opset or OPSET
        return f"ONNX operators {version} in file format {OLDEST_RUNTIME[version][0]}; {self.oldest(version)}"

    def oldest(self, opset: int) -> str:
        """Returns the package with the oldest version that is known to run files of these operators."""
        raise NotImplementedError

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why the model does not fit into one file, or None when it does."""
        needed = sum(tensor.nbytes for tensor in model.state_dict().values())
        if needed > FILE_LIMIT_BYTES:
            return f"its weights take {needed / 1e9:.1f} GB, and one ONNX file holds 2 GB"
        return None

    def export(self, saved: SavedModel, path: Path, opset: int = OPSET, batch: int | None = None) -> Path:
        """Writes the ONNX file, whole or not at all, and returns its path, see `Runtime`.

        `opset` is the version of the operators: a key of `OLDEST_RUNTIME`. `batch` makes a graph of fixed shapes.
        """
        from prunecast.export.onnx import onnx_bytes
        from prunecast.store import new_file

        self._check(saved.model)
        whole = onnx_bytes(saved, opset, self.name, batch)
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(whole)
        return path

    def quantised(
        self,
        saved: SavedModel,
        windows: Iterable[Inputs],
        opset: int = OPSET,
        batch: int | None = None,
        quantizer: Quantizer | None = None,
    ) -> Quantised:
        """Returns the model with matrix products in 8 bits, see `Int8Runtime`; `quantizer` is one of `quantizers`."""
        from prunecast.export.int8 import Int8Onnx

        self._check(saved.model)
        how = quantizer or self.quantizers[0]
        return Int8Onnx(saved, windows, opset=opset, runtime=self.name, batch=batch, quantizer=how)

    def export_int8(self, saved: SavedModel, path: Path, windows: Iterable[Inputs]) -> Path:
        """Writes the ONNX file with matrix products in 8 bits, whole or not at all, see `Int8Runtime`."""
        return self.quantised(saved, windows).export(path)

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a file that `export` or `export_int8` wrote, see `Runtime`."""
        from prunecast.export.onnx import read_model

        return read_model(path, self.name)

    def _check(self, model: ForecastModel) -> None:
        reason = self.unsupported(model)
        if reason is not None:
            raise UserError(f"runtime {self.name!r} cannot run this model: {reason}")
