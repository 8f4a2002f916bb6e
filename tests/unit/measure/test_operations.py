"""Operations, against counts by hand and against torch's own counter where it counts the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.saved_models import SIZES, TRANSFORMER, saved_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from prunecast.measure import operations
from prunecast.measure.operations import count_operations, dense_macs, macs_per_weight
from prunecast.models.base import config_from, example_inputs
from prunecast.models.io import SavedModel


class Calls(nn.Module):
    """A module whose forward is a function of itself and the input."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.call = forward
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self, x)


def counted(module: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    products = operations._products(module, inputs, operations._Counter(module))
    return sum(product.macs for product in products), sum(product.effective_macs() for product in products)


def half_zero(*shape: int) -> Tensor:
    weight = torch.ones(shape)
    weight.view(-1)[::2] = 0
    return weight


def transformer_by_hand(c: int, d: int, ff: int, look: int, label: int, horizon: int, encoder: int) -> int:
    """One decoder layer, 4 marks: its steps before the horizon feed keys and values alone."""
    steps = label + horizon
    embedding = (look + steps) * (3 * c + 4) * d
    attention = 4 * look * d * d + 2 * look * look * d
    layer = attention + 2 * look * d * ff
    own = (2 * horizon + 2 * steps) * d * d + 2 * horizon * steps * d
    cross = (2 * horizon + 2 * look) * d * d + 2 * horizon * look * d
    return embedding + encoder * layer + own + cross + 2 * horizon * d * ff + horizon * d * c


@pytest.mark.parametrize(("d", "ff", "encoder"), [(16, 24, 1), (512, 2048, 2)])
def test_transformer_equals_the_count_by_hand(d: int, ff: int, encoder: int) -> None:
    values = {"name": "transformer", "d_model": d, "n_heads": 2, "d_ff": ff, "encoder_layers": encoder, "channels": 7}
    by_hand = transformer_by_hand(7, d, ff, 96, 48, 96, encoder)
    assert dense_macs(config_from(values)) == by_hand


def test_dlinear_equals_the_count_by_hand() -> None:
    counts = count_operations(saved_model(name="dlinear"))
    assert counts.dense_macs == 3 * (24 * 24 + 2 * 24 * 12)  # moving average, then two maps of each channel
    assert counts.effective_macs == counts.dense_macs


@pytest.mark.parametrize("values", [TRANSFORMER, {"name": "dlinear"}, {"name": "repeat"}, {"name": "seasonal_naive"}])
def test_blank_and_drawn_models_count_the_same(values: dict[str, Any]) -> None:
    saved = saved_model(**values)
    assert count_operations(saved).dense_macs == dense_macs(saved.model.config)


def test_torch_counts_the_same() -> None:
    saved = saved_model(**TRANSFORMER)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        saved.model(*example_inputs(saved.model.config))
    assert counter.get_total_flops() == 2 * count_operations(saved).dense_macs


def test_zero_weights_are_left_out_and_masked_products_are_exact() -> None:
    saved = saved_model(**TRANSFORMER)
    dense = count_operations(saved)
    with torch.no_grad():
        saved.model.get_parameter("encoder.layers.0.feed_forward.up.weight")[:5] = 0.0  # 5 of 24 units, 16 wide
        saved.model.get_parameter("encoder.embedding.value.weight")[:2] = 0.0  # 2 of 16 features, 3 x 3 inputs
    pruned = count_operations(saved)
    assert pruned.dense_macs == pruned.executed_macs == dense.dense_macs
    assert dense.effective_macs - pruned.effective_macs == 24 * (5 * 16 + 2 * 9)
    assert count_operations(saved, skips_zeros=True).executed_macs == pruned.effective_macs


@pytest.mark.parametrize(
    ("forward", "dense"),
    [
        (lambda m, x: F.linear(x, m.w), 3 * 8 * 6),
        (lambda m, x: m.w @ x.mT, 3 * 8 * 6),
        (lambda m, x: torch.einsum("ti,oi->ot", x, m.w), 3 * 8 * 6),
        (lambda m, x: x @ torch.cat([m.w, m.w]).T, 2 * 3 * 8 * 6),
        (lambda m, x: x @ m.w.T.contiguous().double().float(), 3 * 8 * 6),
        (lambda m, x: x.expand(5, 3, 8) @ m.w.T, 5 * 3 * 8 * 6),
        (lambda m, x: m.w @ x[0], 8 * 6),
        (lambda m, x: F.conv1d(x.T[None], m.w[:, :, None]), 3 * 8 * 6),
        (lambda m, x: F.conv_transpose1d(x.T[None], m.w.T[:, :, None].expand(8, 6, 2)), 2 * 3 * 8 * 6),
    ],
)
def test_a_weight_is_known_through_views_and_copies(forward: Callable[..., Tensor], dense: int) -> None:
    module = Calls(forward, w=half_zero(6, 8))
    assert counted(module, torch.randn(3, 8)) == (dense, dense // 2)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: x @ x.T @ (x + m.w),
        lambda m, x: (x * m.w) @ x.T @ x,
        lambda m, x: torch.zeros(3, 8).copy_(x) @ m.w.mul(x.sum()).T @ x,
    ],
)
def test_what_depends_on_the_input_is_no_weight(forward: Callable[..., Tensor]) -> None:
    module = Calls(forward, w=half_zero(3, 8))
    dense, effective = counted(module, torch.randn(3, 8))
    assert effective == dense == 2 * 3 * 3 * 8


def test_complex_weights_count_in_real_numbers() -> None:
    weight = torch.tensor([[1 + 1j, 1j], [0j, 2 + 0j]])
    module = Calls(lambda m, x: x @ m.w, w=weight)
    assert counted(module, torch.randn(5, 2, dtype=torch.complex64)) == (4 * 5 * 4, 2 * 5 * 4)


def test_fourier_transforms_follow_the_documented_count() -> None:
    module = Calls(lambda m, x: torch.fft.irfft(torch.fft.rfft(x), n=64))
    assert counted(module, torch.randn(3, 64))[0] == 2 * 3 * round(1.25 * 64 * math.log2(64))
    module = Calls(lambda m, x: torch.fft.fft(x))
    assert counted(module, torch.randn(64, dtype=torch.complex64))[0] == round(2.5 * 64 * math.log2(64))


def test_macs_per_weight_add_up_to_the_products_with_weights() -> None:
    saved = saved_model(**TRANSFORMER)
    per_weight = macs_per_weight(saved.model)
    with torch.no_grad():
        for parameter in saved.model.parameters():
            parameter.fill_(1.0)
        full = count_operations(saved).effective_macs
        for name in per_weight:
            saved.model.get_parameter(name).zero_()
    without = count_operations(saved).effective_macs
    sizes = {name: saved.model.get_parameter(name).numel() for name in per_weight}
    assert sum(per_weight[name] * sizes[name] for name in per_weight) == full - without
    assert per_weight["encoder.layers.0.feed_forward.up.weight"] == SIZES["lookback"]
    assert per_weight["decoder.projection.weight"] == SIZES["horizon"]
    assert not any(name.endswith("bias") or "norm" in name for name in per_weight)


def test_counting_leaves_the_model_as_it_was() -> None:
    saved = saved_model(**TRANSFORMER)
    saved.model.train()
    before = {name: tensor.clone() for name, tensor in saved.model.state_dict().items()}
    count_operations(SavedModel(saved.model, saved.metadata))
    assert saved.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in saved.model.state_dict().items())
