"""OpenVINO on the processor: the ONNX file that ONNX Runtime takes, under a suffix of its own.

OpenVINO reads ONNX as fast as its own format and needs no more memory for it (measured), and one file is easier to
ship than its pair. Loading and running need neither torch nor onnx.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import LESS_OFFSET, OFFSET_KEY, FixedBatch, Inputs, Offset, OnnxFiles, Predictor, Tolerance

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel

_TELEMETRY = "openvino_telemetry"


class OpenVino(OnnxFiles):
    """Runs an ONNX file with OpenVINO's plugin for the processor."""

    name = "openvino"
    title = "OpenVINO"
    suffix = ".openvino"
    tolerance = Tolerance(1e-4, "float32 sums in another order, fused normalisation and activation")
    packages = ("openvino", "onnx", "onnxscript", "nncf")
    extra = "openvino"
    quantizers = ("static", "nncf")

    def oldest(self, opset: int) -> str:
        """Returns the version that is installed: its makers publish no list of the operators that older ones read."""
        try:
            return f"OpenVINO {version('openvino').partition('-')[0]}, with which it was tried, or later"
        except PackageNotFoundError:
            raise MissingExtra("openvino", "openvino") from None

    def start(self) -> None:
        """Imports OpenVINO."""
        _package()

    def unsupported(self, model: ForecastModel) -> str | None:
        """Returns why the model does not fit into one file, or None when it does."""
        _package()
        return super().unsupported(model)

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a file that `export` wrote, and this version can run, see `Runtime`."""
        openvino = _package()
        frontends = openvino.frontend
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it, and parity is lost
            "ENABLE_CPU_PINNING": False,  # whoever measures has pinned the process already
            # the setting stays with the calling thread for good: one that trains must not get it
            "CPU_DENORMALS_OPTIMIZATION": "torch" not in sys.modules,
        }
        try:
            # asked to find out the format by itself, OpenVINO would try foreign ones that bring further files
            frontend = frontends.FrontEndManager().load_by_framework("onnx")
            model = frontend.convert(frontend.load(str(path)))
            if not model.has_rt_info(["framework", "prunecast"]):
                raise UserError(f"{path}: expected an ONNX file that prunecast wrote, found no model metadata in it")
            request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        except (
            RuntimeError,
            frontends.GeneralFailure,
            frontends.InitializationFailure,
            frontends.NotImplementedFailure,
            frontends.OpConversionFailure,
            frontends.OpValidationFailure,
        ) as error:
            raise UserError(f"{path}: OpenVINO cannot load it: {str(error).strip().splitlines()[-1]}") from None
        given = {entry.any_name: entry.any_name.removesuffix(LESS_OFFSET) for entry in request.model_inputs}
        [output] = (entry.any_name for entry in request.model_outputs)

        def predict(inputs: Inputs) -> NDArray[np.floating]:
            results = request.infer({name: inputs[ours] for name, ours in given.items()}, share_inputs=True)
            forecast: NDArray[np.float32] = results[output]
            return forecast

        key = ["framework", OFFSET_KEY]
        offset = Offset.of(str(model.get_rt_info(key).value) if model.has_rt_info(key) else None, path)
        found = predict if offset is None else offset.around(predict)
        batch = model.inputs[0].partial_shape[0]
        return FixedBatch(found, batch.get_length(), path) if batch.is_static else found


def _package() -> Any:
    """Imports OpenVINO, or raises MissingExtra; left to itself, that import sends a note to its makers."""
    blocked = sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type] # None: an import of it fails
    try:
        import openvino
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    finally:
        if blocked is None:
            del sys.modules[_TELEMETRY]
    return openvino


RUNTIME = OpenVino()
