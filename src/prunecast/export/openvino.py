"""OpenVINO on the processor: the ONNX file that ONNX Runtime takes, under a suffix of its own.

OpenVINO reads ONNX as fast as its own format and needs no more memory for it (measured), and one file is easier to
ship than its pair. Loading and running need neither torch nor onnx.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import LESS_OFFSET, OFFSET_KEY, FixedBatch, Inputs, Offset, OnnxFiles, Predictor, Tolerance

if TYPE_CHECKING:
    from prunecast.models.base import ForecastModel
    from prunecast.records import Profile

_INPUTS = ("history", "x_mark", "y_mark")

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
        return self._loaded(path, threads)[1]

    def profile(self, path: Path, threads: int, inputs: Inputs, calls: int) -> Profile:
        """Returns the time of each kind of operator by OpenVINO's counters, see `ProfilingRuntime`."""
        from prunecast.records import Profile

        request, predict = self._loaded(path, threads, counts=True)
        predict(inputs)
        first = _means_us(request)
        clock = time.perf_counter()
        for _ in range(calls):
            predict(inputs)
        whole_us = (time.perf_counter() - clock) / calls * 1e6
        # the counters are means over all calls so far, and the first one also arranges weights
        nodes = {node: [(us * (calls + 1) - first.get(node, 0.0)) / calls] for node, us in _means_us(request).items()}
        return Profile.of([whole_us], nodes).model_copy(update={"calls": calls})

    def _loaded(self, path: Path, threads: int, *, counts: bool = False) -> tuple[Any, Predictor]:
        """Returns a request and a callable on it; `counts` has it time each node."""
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
            "PERF_COUNT": counts,
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
        # an input may have the name of a value too that is equal to it: less a mean of 0, over a deviation of 1
        names = [name for entry in request.model_inputs for name in entry.names]
        given = {name: ours for name in names if (ours := name.removesuffix(LESS_OFFSET)) in _INPUTS}
        [output] = (entry.any_name for entry in request.model_outputs)

        def predict(inputs: Inputs) -> NDArray[np.floating]:
            results = request.infer({name: inputs[ours] for name, ours in given.items()}, share_inputs=True)
            forecast: NDArray[np.float32] = results[output]
            return forecast

        key = ["framework", OFFSET_KEY]
        offset = Offset.of(str(model.get_rt_info(key).value) if model.has_rt_info(key) else None, path)
        found = predict if offset is None else offset.around(predict)
        batch = model.inputs[0].partial_shape[0]
        return request, FixedBatch(found, batch.get_length(), path) if batch.is_static else found


def _means_us(request: Any) -> dict[tuple[str, str], float]:
    """Returns (kind, name) of each node that ran -> its mean time over the calls of a request so far."""
    return {
        (node.node_type, node.node_name): node.real_time.total_seconds() * 1e6
        for node in request.profiling_info
        if node.status == type(node.status).EXECUTED
    }


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Imports OpenVINO, or what is built on it, without the note that each import sends to its makers."""
    blocked = sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type] # None: an import of it fails
    try:
        yield
    finally:
        if blocked is None:
            del sys.modules[_TELEMETRY]


def _package() -> Any:
    """Imports OpenVINO, or raises MissingExtra."""
    try:
        with without_telemetry():
            import openvino
    except ModuleNotFoundError:
        raise MissingExtra("openvino", "openvino") from None
    return openvino


RUNTIME = OpenVino()
