"""Matrix products in 8 bits: weights stored in a quarter of their bytes, and multiplied as integers.

Quantised are the products of `prunable` weights but the output layer's: their weights by output channel, symmetric, so
that a zero stays one; their inputs by the range that real windows give them. All else, the first and the last layer
included, stays in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from prunecast.errors import UserError
from prunecast.export.base import LESS_OFFSET, OPSET, UNNAMED, Inputs
from prunecast.export.onnx import MODEL, TRANSPOSED, onnx_model, quiet, readers, sealed, transpose, turns
from prunecast.export.raw import offset_of
from prunecast.models.io import SavedModel


def int8_bytes(
    saved: SavedModel,
    windows: Iterable[Inputs],
    opset: int = OPSET,
    runtime: str = UNNAMED,
    batch: int | None = None,
) -> bytes:
    """Returns the content of the ONNX file of a model in 8 bits: equal for equal models and windows.

    Args:
        saved: the model.
        windows: real inputs in batches, in raw units; they set the range of each product's input.
        opset: version of the operators.
        runtime: that the file is written for.
        batch: of a graph of fixed shapes, see `onnx_model`.

    Raises:
        UserError: when the model has no product that could be in 8 bits.
    """
    model, offset = onnx_model(saved, opset, batch), offset_of(saved.metadata)
    body = set(saved.model.prunable()) - set(saved.model.output_layer())
    products = _products(model.graph, {MODEL + name for name in body})
    if not products:
        raise UserError(f"{saved.model.config.name} has no weight that 8 bits could hold; leave out --int8")
    given = {entry.name: entry.name.removesuffix(LESS_OFFSET) for entry in model.graph.input}
    taken = (offset.taken_off(inputs) if offset else inputs for inputs in windows)
    parts = taken if batch is None else (part for inputs in taken for part in _parts(inputs, batch))
    reader = _Reader({name: part[ours] for name, ours in given.items()} for part in parts)
    quantised = _quantised(model, reader, products)
    for entries in (quantised.graph.value_info, quantised.metadata_props):
        entries.clear()
    quantised.metadata_props.extend(model.metadata_props)
    quantised.ir_version = model.ir_version
    return sealed(quantised, runtime)


def _parts(inputs: Inputs, batch: int) -> Iterator[Inputs]:
    """Yields windows in batches of one size; those that make up no whole one are left out."""
    for start in range(0, len(inputs["history"]) - batch + 1, batch):
        yield {name: values[start : start + batch] for name, values in inputs.items()}


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
    """Returns the names of the products of some weights, which now lie in the file as these products take them.

    A linear layer's weight is stored (outputs, inputs) and transposed before its product, where the quantiser, which
    knows only what is in the file, does not find it. A weight that is also read otherwise stays as it is.
    """
    found = []
    for weight in graph.initializer:
        if weight.name.removesuffix(TRANSPOSED) not in candidates or len(weight.dims) != 2:
            continue
        turned = [weight.name] if weight.name.endswith(TRANSPOSED) else turns(graph, weight.name)
        products = [node for name in turned for node in readers(graph, name)]
        if turned and all(node.op_type == "MatMul" and node.input[1] in turned for node in products):
            transpose(graph, weight)
            found += [node.name for node in products]
    return found
