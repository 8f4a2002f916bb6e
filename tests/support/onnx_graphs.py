"""What no exported ONNX file holds: chance, Fourier transforms, complex numbers, sizes that hang on data."""

from __future__ import annotations

from pathlib import Path

import onnx

FORBIDDEN = ("DFT", "STFT", "Random", "Bernoulli", "Dropout", "Multinomial", "NonZero")
"""Beginnings of the kinds of nodes that some runtime lacks, or that forecast something else at each call."""

COMPLEX = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


COMPUTED = {"Shape", "Size", "ConstantOfShape", "Range", "Constant", "If", "Loop", "Scan", "SequenceAt", "Identity"}
"""Kinds of nodes that compute shapes, or choose what is computed: a graph of fixed shapes has none."""


def check_fixed(path: Path, batch: int) -> None:
    """Checks that all shapes of a file are numbers, and that no node computes one."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph
    assert not {node.op_type for node in graph.node} & COMPUTED
    for entry in (*graph.input, *graph.value_info, *graph.output):
        dims = entry.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims), entry.name
    assert all(entry.type.tensor_type.shape.dim[0].dim_value == batch for entry in (*graph.input, *graph.output))
    constants = {entry.name for entry in graph.initializer}
    shapes = [node.input[1] for node in graph.node if node.op_type in {"Reshape", "Expand", "Tile"}]
    assert set(shapes) <= constants, "what a tensor is reshaped to stands in the file"


def check_graph(path: Path) -> None:
    """Checks that a file has nodes, none of a forbidden kind, and no complex weights."""
    proto = onnx.load(path)
    kinds = {node.op_type for graph in (proto.graph, *proto.functions) for node in graph.node}
    assert kinds
    assert not [kind for kind in kinds if kind.startswith(FORBIDDEN)]
    assert not {tensor.data_type for tensor in proto.graph.initializer} & COMPLEX
