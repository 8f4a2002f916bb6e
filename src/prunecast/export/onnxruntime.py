"""ONNX Runtime on the processor: one ONNX file, from raw units to raw units.

Loading and running need neither torch nor onnx, so that a timed process holds what a device would hold.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort

from prunecast.errors import UserError
from prunecast.export.api import Inputs, Predictor

if TYPE_CHECKING:
    from prunecast.models.api import Forecaster
    from prunecast.models.disk import SavedModel

FILE_LIMIT_BYTES = 2**31 - 2**24
"""One protobuf message holds 2 GB; the graph itself and the card need a little of it."""

_REFUSALS = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoSuchFile,
    ort.NotImplemented,
    ort.RuntimeException,
)


class OnnxRuntime:
    """Exports with torch's own exporter, runs with ONNX Runtime's CPU kernels."""

    name = "onnxruntime"
    suffix = ".onnx"

    def unsupported(self, model: Forecaster) -> str | None:
        """Returns why the model does not fit into one file, or None when it does."""
        needed = sum(tensor.nbytes for tensor in model.state_dict().values())
        if needed > FILE_LIMIT_BYTES:
            return f"its weights take {needed / 1e9:.1f} GB, and one ONNX file holds 2 GB"
        return None

    def export(self, saved: SavedModel, path: Path) -> Path:
        """Writes the ONNX file, whole or not at all, and returns its path.

        Raises:
            UserError: when the model is not supported or the file cannot be written.
        """
        reason = self.unsupported(saved.model)
        if reason is not None:
            raise UserError(f"runtime {self.name!r} cannot run this model: {reason}")
        from prunecast.export.onnx_graph import onnx_bytes
        from prunecast.store import new_file

        content = onnx_bytes(saved)
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(content)
        return path

    def read(self, path: Path) -> SavedModel:
        """Returns the model inside a file that `export` wrote.

        Raises:
            UserError: when it is not an ONNX file, or none that Prunecast wrote.
        """
        from prunecast.export.onnx_graph import read_model

        return read_model(path)

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a file that `export` wrote.

        Raises:
            UserError: when it is not an ONNX file, none that Prunecast wrote, or one that this version cannot run.
        """
        try:
            session = onnxruntime.InferenceSession(path, _options(threads), providers=["CPUExecutionProvider"])
        except _REFUSALS as error:
            raise UserError(f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from None
        if "prunecast" not in session.get_modelmeta().custom_metadata_map:
            raise UserError(f"{path}: expected an ONNX file that prunecast wrote, found no model card in it")
        names = [entry.name for entry in session.get_inputs()]

        def predict(inputs: Inputs) -> NDArray[np.float32]:
            forecast: NDArray[np.float32] = session.run(["forecast"], {name: inputs[name] for name in names})[0]
            return forecast

        return predict


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors come as exceptions; warnings would go to the standard error stream
    if "torch" not in sys.modules:  # the setting stays with this thread for good: one that trains must not get it
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    # threads that wait for the next call by spinning would take processor time from whatever runs between two calls
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


RUNTIME = OnnxRuntime()
