"""FITS against Fourier transforms written out, on series whose continuation is known, and its mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.half_models import check_half
from torch import Tensor

from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published, published_state
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

SMALL = {"channels": 3, "lookback": 24, "horizon": 12, "label_len": 4, "cut_freq": 9}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    model = build(config_from({"name": "fits"} | SMALL | values)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model


def _by_definition(model: ForecastModel, x_BLC: Tensor) -> Tensor:
    """The paper's section 3.3 with complex numbers, for a whole model."""
    config = model.config
    mean, deviation = x_BLC.mean(1, keepdim=True), (x_BLC.var(1, keepdim=True) + 1e-5).sqrt()
    spectrum = torch.fft.rfft(((x_BLC - mean) / deviation).transpose(1, 2))[..., : config.dense_reads]
    weight = torch.complex(model.real, model.imaginary)
    product = torch.einsum("bci,cwi->bcw" if config.individual else "bci,wi->bcw", spectrum, weight)
    written = product + torch.complex(model.real_bias, model.imaginary_bias)
    series = torch.fft.irfft(written, n=config.steps) * config.steps / config.lookback
    return (series.transpose(1, 2) * deviation + mean)[:, config.lookback :]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"individual": True},
        {"cut_freq": 2},
        {"cut_freq": 13, "horizon": 24},
        {"lookback": 23, "horizon": 8},
        {"lookback": 23, "horizon": 9},
        {"lookback": 24, "horizon": 1},
        {"channels": 1},
        {"lookback": 2, "horizon": 3, "label_len": 0, "cut_freq": 2},
    ],
    ids=str,
)
def test_the_forecast_is_the_interpolated_spectrum(values: dict[str, Any]) -> None:
    model = _model(**values)
    x = 2 * torch.randn(4, model.config.lookback, model.config.channels, dtype=torch.double) + 3
    expected = _by_definition(model, x)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.train()(x), expected, rtol=0, atol=1e-10)
    model(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_wave_goes_on() -> None:
    """Bin 2 of 24 steps is bin 4 of 48: a layer that says so continues a wave of 12 steps."""
    model = _model(horizon=24)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.real[4, 2] = 1
    steps = torch.arange(48, dtype=torch.double)
    wave = 5 + 3 * torch.cos(2 * math.pi * steps / 12 + 0.7)
    forecast = model(wave[None, :24, None].expand(1, 24, 3))
    torch.testing.assert_close(forecast[0, :, 0], wave[24:], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("values", "reads", "writes"),
    [
        ({"lookback": 96, "horizon": 96}, 40, 80),
        ({"lookback": 96, "horizon": 96, "H_order": 2}, 20, 40),
        ({"lookback": 360, "horizon": 720}, 106, 318),
        ({"lookback": 96, "horizon": 192, "base_T": 144}, 16, 48),
        ({"lookback": 36, "horizon": 24, "label_len": 18, "base_T": 1}, 19, 31),
        ({"lookback": 24, "horizon": 24, "label_len": 0, "cut_freq": 13}, 13, 25),
    ],
    ids=str,
)
def test_the_cut_off_is_the_published(values: dict[str, Any], reads: int, writes: int) -> None:
    """int(L / base_T + 1) * H_order + 10 bins, as many as there are, and those below that frequency in L + H steps."""
    with torch.device("meta"):
        model = build(config_from({"name": "fits", "channels": 7} | values))
    assert (model.config.dense_reads, model.config.dense_writes) == (reads, writes)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2 * writes * (reads + 1)


@pytest.mark.parametrize("individual", [False, True])
def test_targets_choose_channels(individual: bool) -> None:
    every, some = _model(individual=individual), _model(individual=individual, targets=(2, 0))
    for name, parameter in every.named_parameters():
        some.get_parameter(name).data = parameter.data[[2, 0]] if individual else parameter.data
    x = torch.randn(4, 24, 3, dtype=torch.double)
    torch.testing.assert_close(some(x), every(x)[..., [2, 0]])


def test_marks_are_not_used_and_a_wrong_lookback_is_refused() -> None:
    model, x = _model(), torch.randn(2, 24, 3, dtype=torch.double)
    assert torch.equal(model(x), model(x, torch.randn(2, 24, 4), torch.randn(2, 16, 4)))
    with pytest.raises(UserError, match=r"x: expected \(batch, 24, 3\), found \(2, 23, 3\)"):
        model(x[:, 1:])


def test_which_bins_stay_is_in_the_state_dict() -> None:
    model = _model()
    config = model.shrunk_config({"read": torch.tensor([0, 4, 7]), "written": torch.tensor([1, 2])})
    assert config_from(config.model_dump(mode="json")) == config
    assert (config.read_modes, config.written_modes) == (3, 2)
    small = build(config)
    assert {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()} == {
        "real": (2, 3),
        "imaginary": (2, 3),
        "real_bias": (2,),
        "imaginary_bias": (2,),
        "read_bins": (3,),
        "written_bins": (2,),
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cut_freq": 14}, r"cut_freq: expected at most lookback // 2 \+ 1 \(13\), found 14"),
        ({"lookback": 1, "label_len": 0}, "lookback: expected at least 2 steps, found 1"),
        ({"base_T": 0}, "model.base_T: .*found 0"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "fits"} | SMALL | values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("individual", [False, True])
def test_a_published_checkpoint_has_complex_numbers(individual: bool) -> None:
    model = _model(individual=individual)
    weight, bias = torch.complex(model.real, model.imaginary), torch.complex(model.real_bias, model.imaginary_bias)
    theirs = {"weight": weight, "bias": bias}
    if individual:
        theirs = {f"{channel}.{part}": tensor[channel] for part, tensor in theirs.items() for channel in range(3)}
    theirs = {f"freq_upsampler.{name}": tensor.detach() for name, tensor in theirs.items()}
    state = published_state(model, theirs, "original")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    found = published("fits", "original").sizes(theirs)
    assert found == {"cut_freq": 9, "individual": individual} | ({"channels": 3} if individual else {})


def test_half_of_everything_is_saved_loaded_tuned_and_exported(tmp_path: Path) -> None:
    check_half("fits", tmp_path, individual=True)


def test_modes_are_pruned_when_they_are_asked_for() -> None:
    model = build(config_from({"name": "fits", "channels": 7}))
    config = PruneConfig(method="structured-magnitude", sparsity=0.5, kinds=("mode",))
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert pruned.outcome.realised / pruned.outcome.total == pytest.approx(0.5, abs=0.02)
