"""Every model becomes a plain graph: any batch size, no random or data-dependent operators, no circular pad.

That their ONNX files are as plain, `test_chain.py` and `test_halved.py` check where they export.
"""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import SMALL, small_inputs, small_model

FORBIDDEN = ("pad", "bernoulli", "dropout", "rand", "normal", "multinomial", "nonzero", "fft", "_fft", "complex")
"""Beginnings of operators that no graph has: circular padding, chance, sizes that hang on data, Fourier, complex."""


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
