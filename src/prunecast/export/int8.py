"""Matrix products in 8 bits: weights stored in a quarter of their bytes, and multiplied as integers.

Quantised are the products of `prunable` weights but the output layer's: their weights by output channel, symmetric, so
that a zero stays one; their inputs by the range that real windows give them (`static`, and `nncf`, which also corrects
biases), or by the range that they have in each forecast (`dynamic`). All else, the first and the last layer included,
stays in float32; so do single weights that would cost too much, when asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static

from prunecast.errors import MissingExtra, UserError
from prunecast.export.base import LESS_OFFSET, OPSET, UNNAMED, Inputs, whole_batches
from prunecast.export.onnx import (
    MODEL,
    QUANTISED,
    SCALE,
    TRANSPOSED,
    onnx_model,
    quiet,
    readers,
    sealed,
    transpose,
    turns,
)
from prunecast.export.openvino import without_telemetry
from prunecast.export.raw import offset_of
from prunecast.models.io import SavedModel
from prunecast.records import Quantizer
from prunecast.store import new_file


class Int8Onnx:
    """A model in 8 bits, to be written with some of its weights or none in float32, see `base.Quantised`."""

    def __init__(
        self,
        saved: SavedModel,
        windows: Iterable[Inputs],
        *,
        opset: int = OPSET,
        runtime: str = UNNAMED,
        batch: int | None = None,
        quantizer: Quantizer = "static",
    ) -> None:
        """Quantises all weights that 8 bits could hold.

        Args:
            saved: the model.
            windows: real inputs in batches, in raw units; they set the range of each product's input.
            opset: version of the operators.
            runtime: that the file is written for.
            batch: of a graph of fixed shapes, see `onnx_model`.
            quantizer: see the module.

        Raises:
            MissingExtra: when `nncf` is asked for and not installed.
            UserError: when the model has no product that could be in 8 bits.
        """
        self.runtime, self.quantizer = runtime, quantizer
        self.model = onnx_model(saved, opset, batch, plain=True)
        body = set(saved.model.prunable()) - set(saved.model.output_layer())
        self.products = _products(self.model.graph, {MODEL + name for name in body})
        if not self.products:
            raise UserError(f"{saved.model.config.name} has no weight that 8 bits could hold; leave out --int8")
        self.weights = tuple(name.removeprefix(MODEL).removesuffix(TRANSPOSED) for name in self.products)
        given = {entry.name: entry.name.removesuffix(LESS_OFFSET) for entry in self.model.graph.input}
        offset = offset_of(saved.metadata)
        taken = (offset.taken_off(inputs) if offset else inputs for inputs in windows)
        parts = taken if batch is None else (part for inputs in taken for part in whole_batches(inputs, batch))
        calibration = [{name: part[ours] for name, ours in given.items()} for part in parts]
        self.quantised = self._quantised(calibration, self.products)

    def content(self, float32: Collection[str] = ()) -> bytes:
        """Returns the content of the ONNX file: equal for equal models and windows.

        Args:
            float32: names among `weights` whose products stay as they were.
        """
        kept = {MODEL + name + TRANSPOSED for name in float32}
        if kept and self.quantizer == "dynamic":  # there is no range to be found again
            products = {name: nodes for name, nodes in self.products.items() if name not in kept}
            quantised = self._quantised([], products) if products else onnx.ModelProto.FromString(_bytes(self.model))
        else:
            quantised = onnx.ModelProto.FromString(_bytes(self.quantised))
            _restore(quantised.graph, self.model.graph, kept)
        for entries in (quantised.graph.value_info, quantised.metadata_props):
            entries.clear()
        quantised.metadata_props.extend(self.model.metadata_props)
        quantised.ir_version = self.model.ir_version
        return sealed(quantised, self.runtime)

    def export(self, path: Path, float32: Collection[str] = ()) -> Path:
        """Writes the ONNX file, whole or not at all, and returns its path."""
        content = self.content(float32)
        with new_file(path, replace=True) as temporary:
            temporary.write_bytes(content)
        return path

    def _quantised(self, calibration: Sequence[Inputs], products: dict[str, list[str]]) -> onnx.ModelProto:
        names = [node for nodes in products.values() for node in nodes]
        if self.quantizer == "nncf":
            return _by_nncf(self.model, calibration, {*names})
        return _by_onnxruntime(self.model, calibration, names, dynamic=self.quantizer == "dynamic")


def int8_bytes(
    saved: SavedModel,
    windows: Iterable[Inputs],
    opset: int = OPSET,
    runtime: str = UNNAMED,
    batch: int | None = None,
) -> bytes:
    """Returns the content of the ONNX file of a model whose products are all in 8 bits, see `Int8Onnx`."""
    return Int8Onnx(saved, windows, opset=opset, runtime=runtime, batch=batch).content()


def _bytes(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString()
    return content


class _Reader(CalibrationDataReader):  # type: ignore[misc] # from a package without types
    """Batches as the quantiser asks for them."""

    def __init__(self, batches: Iterable[Inputs]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Inputs | None:
        return next(self.batches, None)


def _by_onnxruntime(
    model: onnx.ModelProto, calibration: Sequence[Inputs], products: list[str], *, dynamic: bool
) -> onnx.ModelProto:
    """Returns the model with 8-bit inputs and weights around some products; their results stay float32.

    Weights use 7 of the 8 bits: x86 processors without VNNI add two products in 16 bits, and full ones would overflow.
    It cost no accuracy that could be told from none, nor did it on a processor with VNNI cost time.
    """
    with TemporaryDirectory(prefix="prunecast-") as folder, quiet():
        path = Path(folder) / "model.onnx"
        model = onnx.ModelProto.FromString(_bytes(model))  # the quantiser moves its weights into a file
        options = {"nodes_to_quantize": products, "op_types_to_quantize": ["MatMul"], "per_channel": True}
        options |= {"weight_type": QuantType.QInt8, "reduce_range": True}
        if dynamic:
            quantize_dynamic(model, path, **options)
        else:
            quantize_static(
                model,
                path,
                _Reader(calibration),
                activation_type=QuantType.QUInt8,
                extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
                **options,
            )
        return onnx.load(path)


def _by_nncf(model: onnx.ModelProto, calibration: Sequence[Inputs], products: set[str]) -> onnx.ModelProto:
    """Returns the model as NNCF quantises it: products of weights and of attention, biases corrected.

    It is told to leave the weights at their own scale, so that those of the file are those of the model.
    """
    nncf = _nncf()
    others = [
        node.name for node in model.graph.node if node.op_type in {"MatMul", "Gemm"} and node.name not in products
    ]
    constants = {entry.name for entry in model.graph.initializer}
    weights_of_others = [node.name for node in model.graph.node if node.name in others and constants & {*node.input}]
    with quiet(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        quantised: onnx.ModelProto = nncf.quantize(
            onnx.ModelProto.FromString(_bytes(model)),
            nncf.Dataset(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=weights_of_others),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
            ),
        )
    names: dict[str, str] = {}
    for weight in constants:
        parts = ((QUANTISED, "q_output_"), (SCALE, "scale_"), ("_zero_point", "zero_point_"))
        names |= {f"{theirs}{weight}_1": weight + ours for ours, theirs in parts if weight.endswith(TRANSPOSED)}
    for entry in quantised.graph.initializer:
        entry.name = names.get(entry.name, entry.name)
    for node in quantised.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return quantised


def _nncf() -> Any:
    """Imports NNCF, or raises MissingExtra."""
    try:
        with quiet(), without_telemetry():
            import nncf
    except ModuleNotFoundError:
        raise MissingExtra("nncf", "nncf") from None
    return nncf


def _restore(graph: onnx.GraphProto, original: onnx.GraphProto, kept: Collection[str]) -> None:
    """Gives products of some weights back the float32 numbers that they were quantised from."""
    made = {output: node for node in graph.node for output in node.output}
    values = {entry.name: entry for entry in original.initializer}
    held = {entry.name: entry for entry in graph.initializer}
    still, before = set(), {}
    for node in graph.node:
        weight = made.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or not weight.input[0].endswith(QUANTISED):
            continue
        name = weight.input[0].removesuffix(QUANTISED)
        if name not in kept:
            still.add(node.input[0])
            continue
        node.input[1] = name
        if name not in held:
            graph.initializer.append(values[name])
            held[name] = values[name]
        bias = name.removesuffix("weight" + TRANSPOSED) + "bias"
        if bias in held and bias in values:
            held[bias].CopyFrom(values[bias])
        if (back := made[node.input[0]]).op_type == "DequantizeLinear":  # of the product's input
            before[node.input[0]] = made[back.input[0]].input[0]
    for node in graph.node:  # others read that input in 8 bits as well, where a product does
        node.input[:] = [before[name] if name in before.keys() - still else name for name in node.input]
        if node.op_type == "MatMul" and node.input[1] in kept:
            node.input[0] = before.get(node.input[0], node.input[0])
    _drop_unread(graph)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Drops nodes that nothing reads any more, and constants."""
    read: set[str] = {entry.name for entry in graph.output}
    for node in reversed([*graph.node]):  # whoever reads a value stands behind it
        if read & {*node.output}:
            read |= {*node.input}
        else:
            graph.node.remove(node)
    for entry in [*graph.initializer]:
        if entry.name not in read:
            graph.initializer.remove(entry)


def _products(graph: onnx.GraphProto, candidates: Collection[str]) -> dict[str, list[str]]:
    """Returns the names of the products of some weights, which now lie in the file as these products take them.

    A linear layer's weight is stored (outputs, inputs) and transposed before its product, where the quantiser, which
    knows only what is in the file, does not find it. A weight that is also read otherwise stays as it is.
    """
    found = {}
    for weight in graph.initializer:
        if weight.name.removesuffix(TRANSPOSED) not in candidates or len(weight.dims) != 2:
            continue
        turned = [weight.name] if weight.name.endswith(TRANSPOSED) else turns(graph, weight.name)
        products = [node for name in turned for node in readers(graph, name)]
        if turned and all(node.op_type == "MatMul" and node.input[1] in turned for node in products):
            transpose(graph, weight)
            found[weight.name] = [node.name for node in products]
    return found
