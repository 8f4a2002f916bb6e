"""The distilling convolution: closed rings and their gradients, against plain operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.models.informer import Distilling, distilled_steps


def published(layer: Distilling, x_BLD: Tensor) -> Tensor:
    """The layer as it is published: a circular convolution, batch normalisation, ELU, pooling."""
    kernel, bias = layer.convolution.weight, layer.convolution.bias
    padded = F.pad(x_BLD.mT, (layer.padding, layer.padding), mode="circular")
    normalised = F.batch_norm(
        F.conv1d(padded, kernel, bias), None, None, layer.norm.weight, layer.norm.bias, training=True
    )
    return F.max_pool1d(F.elu(normalised), 3, 2, 1).mT


@pytest.mark.parametrize("padding", [1, 2])
@pytest.mark.parametrize("steps", [7, 8])
def test_output_and_gradients_are_those_of_plain_operators(padding: int, steps: int) -> None:
    torch.manual_seed(1)
    layer = Distilling(6, 5, padding).double().train()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(3, steps, 6, dtype=torch.float64)
    results = []
    for forward in (layer, lambda x_BLD: published(layer, x_BLD)):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = forward(leaf)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append([y.detach(), leaf.grad, *(p.grad for p in layer.parameters())])
    assert results[0][0].shape == (3, distilled_steps(steps, padding), 5)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-7)
