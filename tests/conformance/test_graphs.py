"""Every model becomes a plain graph: any batch size, no random or data-dependent operators, no circular pad."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.small import SMALL, small_inputs, small_model

FORBIDDEN = ("pad_circular", "pad", "bernoulli", "dropout", "rand", "nonzero", "fft")


@pytest.mark.parametrize("name", SMALL)
def test_the_graph_takes_any_batch_and_gives_the_same_forecast(name: str) -> None:
    model = small_model(name)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, small_inputs(3), dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    names = {str(node.target).removeprefix("aten.").split(".")[0] for node in program.graph.nodes}
    assert not names & set(FORBIDDEN)
    for size in (1, 4):
        inputs = small_inputs(size)
        torch.testing.assert_close(program.module()(*inputs), model(*inputs), rtol=0, atol=1e-12)
