"""Every model becomes a plain graph: any batch size, no random or data-dependent operators, no circular pad."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from tests.support.small_models import SMALL, small_inputs, small_model

from prunecast.models.io import Card, SavedModel, ScalerFacts
from prunecast.registry import RUNTIMES

FORBIDDEN = ("pad", "bernoulli", "dropout", "rand", "normal", "multinomial", "nonzero", "fft", "_fft", "complex")
"""Beginnings of operators that no graph has: circular padding, chance, sizes that hang on data, Fourier, complex."""

FORBIDDEN_ONNX = ("DFT", "STFT", "Random", "Bernoulli", "Dropout", "Multinomial", "NonZero")


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_takes_any_batch_and_gives_the_same_forecast(name: str) -> None:
    model = small_model(name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, small_inputs(3), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    names = {str(node.target).removeprefix("aten.") for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in names if name.startswith(FORBIDDEN)]
    values = (node.meta.get("val") for node in program.graph.nodes)
    assert not any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)
    for size in (1, 4):
        inputs = small_inputs(size)
        torch.testing.assert_close(program.module()(*inputs), model(*inputs), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_the_exported_file_has_no_fourier_transform_and_no_chance(name: str, tmp_path: Path) -> None:
    model = small_model(name).float()
    channels = tuple(f"c{number}" for number in range(model.config.channels))
    scaler = ScalerFacts(mean=(0.0,) * len(channels), std=(1.0,) * len(channels))
    values = model.config.model_dump(mode="json")
    card = Card(model=values, channels=channels, targets=channels, scaler=scaler, dense_parameters=1, data=None)
    path = RUNTIMES.load("onnxruntime").export(SavedModel(model, card), tmp_path / "model.onnx")
    proto = onnx.load(path)
    graphs = [proto.graph, *proto.functions]
    kinds = {node.op_type for graph in graphs for node in graph.node}
    assert kinds
    assert not [kind for kind in kinds if kind.startswith(FORBIDDEN_ONNX)]
    stored = {tensor.data_type for tensor in proto.graph.initializer}
    assert not stored & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
