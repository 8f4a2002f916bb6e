"""ONNX Runtime on the processor: one ONNX file, from raw units to raw units.

Loading and running need neither torch nor onnx, so that a timed process holds what a device would hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prunecast.errors import UserError
from prunecast.export.base import (
    LESS_OFFSET,
    OFFSET_KEY,
    OLDEST_RUNTIME,
    FixedBatch,
    Inputs,
    Offset,
    OnnxFiles,
    Predictor,
    Tolerance,
)

if TYPE_CHECKING:
    from prunecast.records import Profile

SLOWER = ("SkipLayerNormFusion",)
"""What ONNX Runtime would put together and then compute more slowly: an addition and its norm, 59 against 20 us of 84
rows of 128."""


class OnnxRuntime(OnnxFiles):
    """Runs an ONNX file with ONNX Runtime's kernels for the processor."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    suffix = ".onnx"
    tolerance = Tolerance(1e-4, "float32 sums in another order, fused normalisation and activation")
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = None
    quantizers = ("static", "dynamic")

    def oldest(self, opset: int) -> str:
        """Returns the first version that read these operators and the format of the file."""
        return f"ONNX Runtime {OLDEST_RUNTIME[opset][1]} or later"

    def start(self) -> None:
        """Imports ONNX Runtime."""
        import onnxruntime  # noqa: F401 - what `load` needs

    def load(self, path: Path, threads: int) -> Predictor:
        """Returns a callable on a file that `export` wrote, and this version can run, see `Runtime`."""
        return self._loaded(path, threads)[1]

    def profile(self, path: Path, threads: int, inputs: Inputs, calls: int) -> Profile:
        """Returns the time of each kind of operator by ONNX Runtime's own profile, see `ProfilingRuntime`."""
        from prunecast.records import Profile

        with TemporaryDirectory(prefix="prunecast-") as folder:
            session, predict = self._loaded(path, threads, Path(folder, "profile"))
            for _ in range(calls + 1):
                predict(inputs)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes: dict[tuple[str, str], list[float]] = {}
        for event in events:
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                nodes.setdefault((event["args"]["op_name"], event["name"]), []).append(event["dur"])
        whole = [event["dur"] for event in events if event["name"] == "model_run"]
        return Profile.of(whole[1:], {node: times[1:] for node, times in nodes.items()})

    def _loaded(self, path: Path, threads: int, profile: Path | None = None) -> tuple[Any, Predictor]:
        """Returns a session and a callable on it; it writes a profile to a file of this prefix where there is one."""
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as ort  # what it raises has no public name

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors come as exceptions; warnings would go to the standard error stream
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        if "torch" not in sys.modules:  # the setting stays with this thread for good: one that trains must not get it
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # threads that wait for the next call by spinning would take processor time from whatever runs between two calls
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
            )
        except (
            ort.Fail,
            ort.InvalidArgument,
            ort.InvalidGraph,
            ort.InvalidProtobuf,
            ort.NoSuchFile,
            ort.NotImplemented,
            ort.RuntimeException,
        ) as error:
            raise UserError(f"{path}: ONNX Runtime cannot load it: {str(error).splitlines()[0]}") from None
        metadata = session.get_modelmeta().custom_metadata_map
        if "prunecast" not in metadata:
            raise UserError(f"{path}: expected an ONNX file that prunecast wrote, found no model metadata in it")
        given = {entry.name: entry.name.removesuffix(LESS_OFFSET) for entry in session.get_inputs()}
        [output] = (entry.name for entry in session.get_outputs())

        def predict(inputs: Inputs) -> NDArray[np.floating]:
            forecast: NDArray[np.float32] = session.run([output], {name: inputs[ours] for name, ours in given.items()})[
                0
            ]
            return forecast

        offset = Offset.of(metadata.get(OFFSET_KEY), path)
        found = predict if offset is None else offset.around(predict)
        batch = session.get_inputs()[0].shape[0]  # a name where it is free
        return session, FixedBatch(found, batch, path) if isinstance(batch, int) else found


RUNTIME = OnnxRuntime()
