"""Auto-correlation and its parts against the Fourier transforms, rolls and loops of the paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunecast.kernels.along_time import chosen_correlation, rolling_sum
from prunecast.kernels.base import BATCH as MANY
from prunecast.models.autoformer import AutoCorrelation, Delays, circulant, resampling, wrapped_sums

WIDTH, MEMORY_WIDTH, HEADS, SIZE, BATCH = 6, 5, 3, 4, 3
LENGTHS = pytest.mark.parametrize(("steps", "memory_steps"), [(12, 12), (12, 7), (12, 19), (11, 11), (11, 5), (3, 3)])


def _layer(steps: int, *, resampled: bool = False, factor: int = 2, heads: int = HEADS) -> AutoCorrelation:
    torch.manual_seed(1)
    delays = Delays(steps, factor, HEADS * SIZE, resampled)
    return AutoCorrelation(WIDTH, MEMORY_WIDTH, heads, SIZE, delays).double()


def _streams(steps: int, memory_steps: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = ((batch, steps, WIDTH), (batch, memory_steps, MEMORY_WIDTH))
    x, memory = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return x, memory


def _paper(layer: AutoCorrelation, x_BQD: Tensor, memory_BSM: Tensor) -> Tensor:
    """Equations 5 to 7, delay by delay; the memory is cut, or continued by zeros, after it is projected."""
    steps, resampled = layer.delays.steps, layer.resampling_QN is not None
    query, key, value = layer.query(x_BQD), layer.key(memory_BSM), layer.value(memory_BSM)
    key, value = (nn.functional.pad(part, (0, 0, 0, steps - part.shape[1])) for part in (key, value))
    spectrum = torch.fft.rfft(query, dim=1) * torch.fft.rfft(key, dim=1).conj()
    correlation_BN = torch.fft.irfft(spectrum, None if resampled else steps, dim=1).sum(2) / (HEADS * SIZE)
    count = int(layer.delays.factor * math.log(steps))
    ranked = correlation_BN.mean(0, keepdim=True).expand_as(correlation_BN) if layer.training else correlation_BN
    mixed = []
    for sample, best in enumerate(ranked.topk(count).indices):
        weights = correlation_BN[sample, best].softmax(0)
        rolls = (w * value[sample].roll(-int(delay), 0) for w, delay in zip(weights, best, strict=True))
        mixed.append(torch.stack(list(rolls)).sum(0))
    result: Tensor = layer.out(torch.stack(mixed))
    return result


def _gradients(layer: AutoCorrelation, output: Tensor, *streams: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    towards = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return list(torch.autograd.grad((output * towards).sum(), (*streams, *layer.parameters())))


@LENGTHS
@pytest.mark.parametrize("resampled", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [BATCH, 17])
def test_outputs_and_gradients_are_the_papers(
    steps: int, memory_steps: int, resampled: bool, training: bool, batch: int
) -> None:
    layer = _layer(steps, resampled=resampled).train(training)
    streams = _streams(steps, memory_steps, batch)
    found, expected = layer(*streams), _paper(layer, *streams)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    pairs = zip(_gradients(layer, found, *streams), _gradients(layer, expected, *streams), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@LENGTHS
def test_merged_layers_give_the_same_as_layers_apart(
    steps: int, memory_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, streams = _layer(steps).train(), _streams(steps, memory_steps)
    results = []
    for merged in (False, True):
        monkeypatch.setattr(AutoCorrelation, "_merging_pays", lambda *_, merged=merged: merged)
        output = layer(*streams)
        results.append([output, *_gradients(layer, output, *streams)])
    for apart, together in zip(*results, strict=True):
        torch.testing.assert_close(apart, together, rtol=0, atol=1e-12)


def test_layers_are_merged_where_that_is_less_work() -> None:
    """A batch pays for the products of weights, one sample does not; nor does a layer that one head is left of."""
    one, many = (torch.zeros(batch, 12, 64) for batch in (1, 32))
    whole, one_head = (AutoCorrelation(64, 64, heads, 8, Delays(12, 2, 64)) for heads in (8, 1))
    assert whole._merging_pays(many, many)
    assert not whole._merging_pays(one, one)
    assert not one_head._merging_pays(many, many)


def test_delays_are_a_samples_own_in_eval_mode_and_the_batchs_in_training() -> None:
    layer = _layer(12, factor=1)
    x, memory = (stream.detach() for stream in _streams(12, 12))
    alone = torch.cat([layer.eval()(x[i : i + 1], memory[i : i + 1]) for i in range(BATCH)])
    torch.testing.assert_close(layer(x, memory), alone, rtol=0, atol=1e-12)
    layer.train()
    alone = torch.cat([layer(x[i : i + 1], memory[i : i + 1]) for i in range(BATCH)])
    assert (layer(x, memory) - alone).abs().max() > 1e-3


def test_an_evaluated_batch_and_its_samples_agree_on_their_delays() -> None:
    layer = _layer(12).eval().float()
    x, memory = (stream.detach().float() for stream in _streams(12, 9, batch=MANY))
    alone = torch.cat([layer(x[i : i + 1], memory[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(layer(x, memory), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "factor", "chosen"), [(96, 3, 13), (144, 3, 14), (96, 1, 4), (1, 3, 0), (4, 9, 4)])
def test_how_many_delays_are_chosen(steps: int, factor: int, chosen: int) -> None:
    assert Delays(steps, factor, 1).chosen == chosen


def test_a_stream_of_one_step_has_no_delay_and_gives_the_bias() -> None:
    layer = _layer(1, factor=3).eval()
    torch.testing.assert_close(layer(*_streams(1, 4)), layer.out.bias.expand(BATCH, 1, -1))


@pytest.mark.parametrize("memory_steps", [5, 4, 1])
def test_wrapped_sums_and_circulant(memory_steps: int) -> None:
    matrix = torch.arange(5.0 * memory_steps).view(1, 5, memory_steps)
    sums = [sum(matrix[0, t, (t + j) % 5] for t in range(5) if (t + j) % 5 < memory_steps) for j in range(5)]
    assert wrapped_sums(matrix).tolist() == [[float(value) for value in sums]]
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    entries = [[[float((s - t) % 5 + 1) for s in range(memory_steps)] for t in range(5)]]
    assert circulant(weights, memory_steps).tolist() == entries


def test_resampling_is_a_transform_and_the_inverse_of_one_step_less() -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 7, dtype=torch.float64)
    torch.testing.assert_close(x @ resampling(7), torch.fft.irfft(torch.fft.rfft(x)))


@pytest.mark.parametrize("memory_steps", [6, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_rolling_sums(memory_steps: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    arguments: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    value, weights = torch.randn(2, memory_steps, 3, **arguments), torch.randn(2, 2, **arguments)
    delays = torch.tensor([[4, 1]]).expand(2, -1) if shared else torch.tensor([[4, 1], [0, 5]])
    assert torch.autograd.gradcheck(lambda v, w: rolling_sum(v, w, delays, 6), (value, weights))


@pytest.mark.parametrize("memory_steps", [6, 4])
def test_gradients_of_the_chosen_correlation(memory_steps: int) -> None:
    generator = torch.Generator().manual_seed(5)
    arguments: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "requires_grad": True}
    query, key = torch.randn(2, 6, 3, **arguments), torch.randn(2, memory_steps, 3, **arguments)
    delays = torch.tensor([[4, 1], [0, 5]])

    def choose(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        key = nn.functional.pad(key, (0, 0, 0, 6 - key.shape[1]))
        sums = [[(query[b].roll(-int(delay), 0) * key[b]).sum() for delay in delays[b]] for b in range(2)]
        return delays, torch.stack([torch.stack(row) for row in sums])

    assert torch.autograd.gradcheck(lambda q, k: chosen_correlation(q, k, choose)[1], (query, key))
