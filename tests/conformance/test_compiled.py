"""Every model's training step is one graph for a compiler, and its gradients are those of the plain step."""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import TRAINED, small_inputs, small_model
from torch import Tensor

from prunecast.models.base import ForecastModel
from prunecast.registry import MODELS

BATCH, LOOKBACK = 16, 24
"""Enough samples and steps for what is written by hand for the processor, which small inputs pass by."""

SOON = ("transformer", "informer", "fedformer", "lstm")
"""What they are made of is what the others are made of; `make test-all` compiles all of them."""


def model_and_inputs(name: str, **values: object) -> tuple[ForecastModel, tuple[Tensor, ...]]:
    return small_model(name, lookback=LOOKBACK, **values).train(), small_inputs(BATCH, LOOKBACK)


def gradients(model: ForecastModel, called: torch.nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    called(*inputs).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name", [name if name in SOON else pytest.param(name, marks=pytest.mark.slow) for name in TRAINED]
)
def test_a_step_is_one_graph_with_the_plain_gradients(name: str) -> None:
    values = {"dropout": 0.0} if "dropout" in MODELS.load(name).Config.model_fields else {}
    model, inputs = model_and_inputs(name, **values)
    plain = gradients(model, model, inputs)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    found = gradients(model, compiled, inputs)  # type: ignore[arg-type]
    assert found.keys() == plain.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for key, gradient in plain.items():
        assert torch.allclose(found[key], gradient, rtol=0, atol=1e-10 * max(largest, 1)), key


@pytest.mark.parametrize("name", ["transformer", pytest.param("informer", marks=pytest.mark.slow)])
def test_a_compiled_step_drops_as_often(name: str) -> None:
    model, inputs = model_and_inputs(name, dropout=0.5)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.no_grad():
        spread = [torch.stack([called(*inputs) for _ in range(40)]).std(0).mean() for called in (model, compiled)]
    assert float(spread[0]) > 0
    assert float(spread[1] / spread[0]) == pytest.approx(1, abs=0.15)
