"""The Fourier transform as a matrix, and the blocks that mix its modes, against FFT and complex numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunecast.models.fedformer import (
    CrossBlockWidths,
    FEDformerConfig,
    FourierAttention,
    FourierBlock,
    FourierCrossBlock,
    chosen_modes,
    complex_tanh,
)
from prunecast.models.layers.transforms import FourierTransform


def _config(**values: Any) -> FEDformerConfig:
    """Two heads of three channels."""
    return FEDformerConfig(channels=1, label_len=0, d_model=6, n_heads=2, **values)


def _widths(outputs: int = 3) -> CrossBlockWidths:
    return CrossBlockWidths(inputs=3, outputs=outputs, modes=4, key_modes=3)


def _cross_block(steps: int, memory_steps: int, *, complex_tanh: bool) -> FourierCrossBlock:
    torch.manual_seed(3)
    config = _config(lookback=memory_steps, complex_tanh=complex_tanh)
    block = FourierCrossBlock(config, _widths(), 2, steps, 8).double()
    with torch.no_grad():
        block.weight.normal_()
    return block


def _complex(weight_MHOPI: Tensor) -> Tensor:
    """Returns (H, I, O, M), as the published code holds it."""
    return torch.complex(weight_MHOPI[:, :, :, 0], weight_MHOPI[:, :, :, 1]).permute(1, 3, 2, 0)


@pytest.mark.parametrize("steps", [1, 2, 7, 12])
def test_the_matrix_is_the_transform(steps: int) -> None:
    bins = steps // 2 + 1
    transform, x_BQ = FourierTransform(steps, bins).double(), torch.randn(3, steps, dtype=torch.float64)
    found = x_BQ @ transform.forth(torch.arange(bins)).T
    expected = torch.fft.rfft(x_BQ)
    torch.testing.assert_close(found, torch.cat([expected.real, expected.imag], dim=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 12])
def test_the_other_matrix_is_its_inverse_with_all_that_the_inverse_ignores(steps: int) -> None:
    bins = steps // 2 + 1
    transform = FourierTransform(steps, bins, gain=0.3).double()
    spectrum = torch.randn(3, bins, dtype=torch.complex128)  # imaginary parts of a constant too
    found = torch.cat([spectrum.real, spectrum.imag], dim=1) @ transform.back(torch.arange(bins))
    torch.testing.assert_close(found, 0.3 * torch.fft.irfft(spectrum, n=steps), rtol=0, atol=1e-12)


def test_single_precision_is_as_exact_as_it_can_be() -> None:
    exact = FourierTransform(96, 48).double().forth(torch.arange(48))
    torch.testing.assert_close(FourierTransform(96, 48).forth(torch.arange(48)), exact.float(), rtol=0, atol=0)


def test_bins_that_a_series_does_not_have_are_empty() -> None:
    transform, bins = FourierTransform(6, 9), torch.tensor([3, 4, 8, -1])
    for matrix in (transform.forth(bins), transform.back(bins)):
        assert matrix.view(2, 4, 6).abs().amax(dim=(0, 2)).bool().tolist() == [True, False, False, False]


def test_modes_are_chosen_below_half_of_the_steps() -> None:
    assert chosen_modes(20, 4, "low").tolist() == [0, 1, 2, 3]
    torch.manual_seed(1)
    first, second = (chosen_modes(41, 7, "random").tolist() for _ in range(2))
    assert first != second
    assert first == sorted(set(first))
    assert len(first) == 7
    assert max(first) < 20
    assert chosen_modes(9, 4, "random").tolist() == [0, 1, 2, 3]


def test_a_self_block_writes_its_modes_to_the_first_bins() -> None:
    block = FourierBlock(_config(), _widths(), 2, 12, 12).double()
    block.index.copy_(torch.tensor([0, 2, 3, 5]))
    with torch.no_grad():  # every channel is passed on, times i
        block.weight.zero_()[:, :, :, 1] = torch.eye(3, dtype=torch.float64)
    angle_Q = torch.arange(12, dtype=torch.float64) * torch.pi / 6
    attention = FourierAttention(6, 6, block).double()
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(6))
        attention.query.bias.zero_()
    y_BNQ = block((3 * angle_Q).cos().view(1, 12, 1).expand(1, 12, 6), torch.empty(0), attention.query, attention.key)
    torch.testing.assert_close(y_BNQ, -(2 * angle_Q).sin().expand(1, 6, 12), rtol=0, atol=1e-12)


@pytest.mark.parametrize("complex_tanh", [False, True])
@pytest.mark.parametrize(("steps", "memory_steps"), [(12, 9), (7, 10)])
def test_the_cross_block_is_attention_among_complex_numbers(steps: int, memory_steps: int, complex_tanh: bool) -> None:
    block = _cross_block(steps, memory_steps, complex_tanh=complex_tanh)
    attention = FourierAttention(5, 4, block).double()
    x_BQD, memory_BSD = (torch.randn(2, *shape, dtype=torch.float64) for shape in ((steps, 5), (memory_steps, 4)))
    q_BHIF = torch.fft.rfft(attention.query(x_BQD).view(2, steps, 2, 3).permute(0, 2, 3, 1))
    k_BHIF = torch.fft.rfft(attention.key(memory_BSD).view(2, memory_steps, 2, 3).permute(0, 2, 3, 1))
    q, k = q_BHIF[..., block.index], k_BHIF[..., block.key_index]
    products = torch.einsum("bhix,bhiy->bhxy", q, k)
    weights = products.tanh() if complex_tanh else torch.complex(products.real.tanh(), products.imag.tanh())
    mixed = torch.einsum("bhxy,bhiy,hiox->bhox", weights, k, _complex(block.weight))
    spectrum = torch.zeros_like(q_BHIF)
    spectrum[..., block.index] = mixed / 36
    expected = torch.fft.irfft(spectrum, n=steps).flatten(1, 2)
    found = block(x_BQD, memory_BSD, attention.query, attention.key)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_complex_tanh_overflows_nowhere_and_has_gradients() -> None:
    numbers = torch.tensor([0.0, 1e4, -1e4, 300.0, 1e-9, -2.0, 0.7, 30.0]).double().view(1, 1, 4, 2).requires_grad_()
    expected = torch.complex(numbers[:, :, ::2], numbers[:, :, 1::2]).tanh()
    found = complex_tanh(numbers)
    torch.testing.assert_close(found[:, :, ::2], expected.real, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[:, :, 1::2], expected.imag, rtol=0, atol=1e-12)
    found.sum().backward()
    assert numbers.grad is not None
    assert numbers.grad.isfinite().all()


@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_left_lies_where_it_lay(batch: int) -> None:
    block = FourierBlock(_config(), _widths(outputs=2), 1, 12, 12)
    block.places.copy_(torch.tensor([[3, 5]]))  # of heads 0, 1 the second, of its channels the first and the last
    y_BCQ = torch.randn(batch, 2, 12)
    dense = block.place(y_BCQ)
    assert dense.shape == (batch, 6, 12)
    assert torch.equal(dense[:, [3, 5]], y_BCQ)
    assert not dense[:, [0, 1, 2, 4]].any()


def test_one_sample_and_many_give_the_same() -> None:
    """They take different ways to their products."""
    torch.manual_seed(2)
    block = FourierCrossBlock(_config(lookback=9), _widths(), 2, 12, 12)
    with torch.no_grad():
        block.weight.normal_()
    attention = FourierAttention(5, 4, block).eval()
    x_BQD, memory_BSD = torch.randn(20, 12, 5), torch.randn(20, 9, 4)
    with torch.inference_mode():
        together = attention(x_BQD, memory_BSD)
        alone = [attention(x_BQD[i : i + 1], memory_BSD[i : i + 1]) for i in range(20)]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-5)
