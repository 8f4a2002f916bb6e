"""Moving averages, their mixture, trends and seasonal norms against the plain definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels.base import BATCH
from prunecast.kernels.products import WIDE_SERIES as WIDE
from prunecast.models.layers.decomposition import Decomposition, SeasonalNorm, TrendProjection


def _series(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def _average(x_BLD: Tensor, window: int) -> Tensor:
    """The published one: edge values repeated, one more in front where the window is even, then averaged."""
    ahead = (window - 1) // 2
    front, end = x_BLD[:, :1].expand(-1, window - 1 - ahead, -1), x_BLD[:, -1:].expand(-1, ahead, -1)
    padded = torch.cat([front, x_BLD, end], dim=1)
    return F.avg_pool1d(padded.mT, window, stride=1).mT


@pytest.mark.parametrize("window", [1, 2, 3, 24, 25, 60])
def test_season_and_trend_are_those_of_the_moving_average(window: int) -> None:
    x = _series(2, 9, 3)
    season, trend = Decomposition(9, (window,)).double()(x)
    torch.testing.assert_close(trend, _average(x, window), rtol=0, atol=1e-14)
    torch.testing.assert_close(season + trend, x, rtol=0, atol=1e-14)


def test_averages_are_exact_in_double_although_their_table_was_made_in_single_precision() -> None:
    assert torch.get_default_dtype() == torch.float32
    constant = torch.full((1, 11, 1), 1 / 3, dtype=torch.float64)
    assert Decomposition(11, (25,)).double().season(constant).abs().max() < 1e-15


@pytest.mark.parametrize("width", [1, WIDE - 1, WIDE, 40])
@pytest.mark.parametrize("batch", [1, BATCH - 1, BATCH])
def test_every_way_to_average_gives_the_same(batch: int, width: int) -> None:
    x = _series(batch, 12, width, dtype=torch.float32).requires_grad_()
    decomposition = Decomposition(12, (5,))
    season = decomposition.season(x)
    torch.testing.assert_close(season, x - _average(x, 5), rtol=0, atol=1e-6)
    towards = _series(batch, 12, width, dtype=torch.float32).flip(0)
    (found,) = torch.autograd.grad((season * towards).sum(), x)
    (expected,) = torch.autograd.grad(((x - _average(x, 5)) * towards).sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(decomposition.season(x), season, rtol=0, atol=1e-6)


@pytest.mark.parametrize("windows", [(24,), (3, 8), (12, 24, 5)])
def test_a_mixture_weighs_each_value_by_itself(windows: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    x, decomposition = _series(2, 10, 3), Decomposition(10, windows, mixed=True).double()
    assert decomposition.mixture is not None
    weights = decomposition.mixture(x.unsqueeze(3)).softmax(3)
    averages = torch.stack([_average(x, window) for window in windows], dim=3)
    season, trend = decomposition(x)
    torch.testing.assert_close(trend, (weights * averages).sum(3), rtol=0, atol=1e-14)
    torch.testing.assert_close(season, x - trend, rtol=0, atol=1e-14)


def test_a_single_average_needs_no_parameters() -> None:
    assert not list(Decomposition(9, (5,)).parameters())


@pytest.mark.parametrize("channels", [1, 4, 9])
@pytest.mark.parametrize("training", [False, True])
def test_a_trend_projection_is_a_circular_convolution(channels: int, training: bool) -> None:
    layer = TrendProjection(6, channels).double().train(training)
    circular = nn.Conv1d(6, channels, 3, padding=1, padding_mode="circular", bias=False).double()
    circular.load_state_dict({"weight": layer.weight.detach()})
    x, decomposition = _series(2, 8, 6), Decomposition(8, (5,)).double()
    torch.testing.assert_close(layer(x), circular(x.mT).mT, rtol=0, atol=1e-14)
    trend = decomposition(x)[1]
    torch.testing.assert_close(layer(x, decomposition), circular(trend.mT).mT, rtol=0, atol=1e-14)


def test_a_trend_projection_starts_like_any_convolution() -> None:
    torch.manual_seed(3)
    weight = TrendProjection(64, 32).weight.detach()
    bound = (3 * 64) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_a_seasonal_norm_has_no_level_and_its_bias_no_effect() -> None:
    x = _series(2, 7, 5).requires_grad_()
    norm = SeasonalNorm(5).double()
    with torch.no_grad():
        norm.norm.weight.normal_(), norm.norm.bias.normal_()
    found = norm.eval()(x)
    torch.testing.assert_close(found.mean(1), torch.zeros(2, 5, dtype=torch.float64), rtol=0, atol=1e-14)
    (plain,) = torch.autograd.grad(found.pow(3).sum(), x)
    (centred,) = torch.autograd.grad(norm.train()(x).pow(3).sum(), x)
    torch.testing.assert_close(centred, plain, rtol=0, atol=1e-12)
    with torch.no_grad():
        norm.norm.bias.zero_()
        torch.testing.assert_close(norm(x), found, rtol=0, atol=1e-14)
