"""What no exported ONNX file holds: chance, Fourier transforms, complex numbers, sizes that hang on data."""

from __future__ import annotations

from pathlib import Path

import onnx

FORBIDDEN = ("DFT", "STFT", "Random", "Bernoulli", "Dropout", "Multinomial", "NonZero")
"""Beginnings of the kinds of nodes that some runtime lacks, or that forecast something else at each call."""

COMPLEX = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


def check_graph(path: Path) -> None:
    """Checks that a file has nodes, none of a forbidden kind, and no complex weights."""
    proto = onnx.load(path)
    kinds = {node.op_type for graph in (proto.graph, *proto.functions) for node in graph.node}
    assert kinds
    assert not [kind for kind in kinds if kind.startswith(FORBIDDEN)]
    assert not {tensor.data_type for tensor in proto.graph.initializer} & COMPLEX
