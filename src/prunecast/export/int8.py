"""Matrix products in 8 bits: weights stored in a quarter of their bytes, and multiplied as integers.

Quantised are the products of `prunable` weights but the output layer's: their weights by output channel, symmetric, so
that a zero stays one; their inputs by the range that real windows give them. All else, the first and the last layer
included, stays in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from prunecast.errors import UserError
from prunecast.export.base import LESS_OFFSET, OPSET, UNNAMED, Inputs
from prunecast.export.onnx import MODEL, TRANSPOSED, onnx_model, quiet, sealed
from prunecast.export.raw import offset_of
from prunecast.models.io import SavedModel


def int8_bytes(saved: SavedModel, windows: Iterable[Inputs], opset: int = OPSET, runtime: str = UNNAMED) -> bytes:
    """Returns the content of the ONNX file of a model in 8 bits: equal for equal models and windows.

    Args:
        saved: the model.
        windows: real inputs in batches, in raw units; they set the range of each product's input.
        opset: version of the operators.
        runtime: that the file is written for.

    Raises:
        UserError: when the model has no product that could be in 8 bits.
    """
    model, offset = onnx_model(saved, opset), offset_of(saved.metadata)
    body = set(saved.model.prunable()) - set(saved.model.output_layer())
    products = _products(model.graph, {MODEL + name for name in body})
    if not products:
        raise UserError(f"{saved.model.config.name} has no weight that 8 bits could hold; leave out --int8")
    given = {entry.name: entry.name.removesuffix(LESS_OFFSET) for entry in model.graph.input}
    taken = (offset.taken_off(batch) if offset else batch for batch in windows)
    reader = _Reader({name: batch[ours] for name, ours in given.items()} for batch in taken)
    quantised = _quantised(model, reader, products)
    for entries in (quantised.graph.value_info, quantised.metadata_props):
        entries.clear()
    quantised.metadata_props.extend(model.metadata_props)
    quantised.ir_version = model.ir_version
    return sealed(quantised, runtime)


class _Reader(CalibrationDataReader):  # type: ignore[misc] # from a package without types
    """Batches as the quantiser asks for them."""

    def __init__(self, batches: Iterable[Inputs]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Inputs | None:
        return next(self.batches, None)


def _quantised(model: onnx.ModelProto, reader: _Reader, products: list[str]) -> onnx.ModelProto:
    """Returns the model with 8-bit inputs and weights around some products; their results stay float32.

    Weights use 7 of the 8 bits: x86 processors without VNNI add two products in 16 bits, and full ones would overflow.
    It cost no accuracy that could be told from none, nor did it on a processor with VNNI cost time.
    """
    with TemporaryDirectory(prefix="prunecast-") as folder, quiet():
        path = Path(folder) / "model.onnx"
        quantize_static(
            model,
            path,
            reader,
            nodes_to_quantize=products,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
        )
        return onnx.load(path)


def _products(graph: onnx.GraphProto, candidates: Collection[str]) -> list[str]:
    """Returns the names of the products of some weights, which now lie in the file as these products take them."""
    weights = [entry for entry in graph.initializer if entry.name in candidates and len(entry.dims) == 2]
    return [node.name for weight in weights for node in _turned(graph, weight)]


def _turned(graph: onnx.GraphProto, weight: onnx.TensorProto) -> list[onnx.NodeProto]:
    """Transposes a weight for good and returns the products that read it; none when it is also read otherwise.

    A linear layer's weight is stored (outputs, inputs) and transposed before its product, where the quantiser, which
    knows only what is in the file, does not find it.
    """
    turns = _readers(graph, weight.name)
    outputs = [turn.output[0] for turn in turns]
    products = [node for output in outputs for node in _readers(graph, output)]
    if not all(turn.op_type == "Transpose" for turn in turns):
        return []
    if not all(node.op_type == "MatMul" and node.input[1] in outputs for node in products):
        return []
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values.T.copy(), weight.name + TRANSPOSED))
    for turn in turns:
        graph.node.remove(turn)
    for node in products:
        node.input[1] = weight.name
    return products


def _readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if name in node.input]
