"""Which product is taken for many rows: chosen by the processor's name, equal whatever is chosen."""

from __future__ import annotations

import pytest
import torch

from prunecast.kernels import linear, over_time
from prunecast.kernels import products as module
from prunecast.kernels.products import to_heads, to_stream


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_convolutions_are_faster", module._convolutions_are_faster.__wrapped__)


@pytest.mark.parametrize(
    ("capability", "processor", "convolves"),
    [
        ("AVX512", "AMD EPYC 9965", True),
        ("AVX512", "Intel(R) Xeon(R) Platinum 8480+", False),
        ("AVX2", "AMD EPYC", False),
        ("DEFAULT", "Cortex-A76", False),
    ],
)
def test_convolutions_are_for_one_kind_of_processor(
    capability: str, processor: str, convolves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(module, "_maker", lambda: processor)
    assert module._convolutions_pay(torch.zeros(1)) == convolves
    assert not module._convolutions_pay(torch.zeros(1, dtype=torch.float64))


def test_both_products_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    x, weight, bias, mixing = torch.randn(32, 96, 64), torch.randn(64, 64), torch.randn(64), torch.randn(24, 96)
    found = []
    for convolves in (False, True):
        monkeypatch.setattr(module, "_convolutions_are_faster", lambda convolves=convolves: convolves)
        found.append((linear(x, weight, bias), over_time(mixing, x)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_both_products_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """At widths for which a convolution is taken in attention too."""
    torch.manual_seed(2)
    x, weight, bias = torch.randn(16, 48, 256), torch.randn(256, 256) / 16, torch.randn(256)
    out = torch.randn(16, 48, 256)
    found = []
    for convolves in (False, True):
        monkeypatch.setattr(module, "_convolutions_are_faster", lambda convolves=convolves: convolves)
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        (linear(*leaves) * out).sum().backward()
        (heads,) = to_heads(leaves[0], (leaves[1], leaves[2]))
        (to_stream(heads, leaves[1], leaves[2]) * out).sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for one, other in zip(*found, strict=True):
        assert one is not None
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-3 * float(one.abs().max()))
