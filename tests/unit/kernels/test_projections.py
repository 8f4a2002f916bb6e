"""Products between a stream and feature-major heads: equal to linear layers and transposes, with exact gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from prunecast.kernels import products
from prunecast.kernels.products import Affine, to_heads, to_stream

B, S, D, W = 3, 5, 4, 6


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def affine(outputs: int, inputs: int) -> Affine:
    return numbers(outputs, inputs), numbers(outputs)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(1)


@pytest.mark.parametrize("few", [0, 10**6], ids=["one product for the weights", "one for each sample"])
@pytest.mark.parametrize("maps", [1, 3])
def test_heads_are_transposed_linear_layers(maps: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FEW_WEIGHTS", few)
    x, several = numbers(B, S, D), [affine(W + i, D) for i in range(maps)]  # of different widths, as after pruning
    for (weight, bias), found in zip(several, to_heads(x, *several), strict=True):
        assert found.is_contiguous()
        torch.testing.assert_close(found, F.linear(x, weight, bias).mT)
    flat = [tensor for pair in several for tensor in pair]

    def call(x: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        return to_heads(x, *zip(flat[::2], flat[1::2], strict=True))

    assert torch.autograd.gradcheck(call, (x, *flat))


@pytest.mark.parametrize("few", [0, 10**6])
def test_a_stream_is_a_linear_layer_of_transposed_heads(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "FEW_WEIGHTS", few)
    y, (weight, bias) = numbers(B, W, S), affine(D, W)
    found = to_stream(y, weight, bias)
    assert found.is_contiguous()
    torch.testing.assert_close(found, F.linear(y.mT, weight, bias))
    assert torch.autograd.gradcheck(to_stream, (y, weight, bias))


def test_an_input_without_gradient_gets_none() -> None:
    x, (weight, bias) = torch.randn(B, S, D), (torch.randn(W, D, requires_grad=True), torch.randn(W))
    to_heads(x, (weight, bias))[0].sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(W, D))


def test_both_ways_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(32, 96, 256), torch.randn(32, 256, 96)
    weight, bias = torch.randn(256, 256), torch.randn(256)
    found = []
    for convolves in (False, True):
        monkeypatch.setattr(products, "_convolutions_are_faster", lambda convolves=convolves: convolves)
        found.append((*to_heads(x, (weight, bias)), to_stream(y, weight, bias)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
