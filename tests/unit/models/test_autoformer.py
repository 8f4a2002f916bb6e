"""Autoformer beyond its published sizes: shapes, marks, targets, delays, widths, mistakes; pruned at paper size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.half_models import check_half
from torch import Tensor

from prunecast.errors import UserError
from prunecast.kernels import Dropout
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.autoformer import AutoCorrelation
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published
from prunecast.models.layers.blocks import FeedForward
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

SMALL = {
    "channels": 3,
    "lookback": 12,
    "horizon": 5,
    "label_len": 5,
    "d_model": 8,
    "n_heads": 2,
    "d_ff": 6,
    "moving_avg": 5,
}
VARIANTS = pytest.mark.parametrize("odd_lengths", ["resampled", "exact"])


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "autoformer"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels)
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


def test_parameters_at_paper_size() -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "autoformer", "channels": 7}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_535_943


@VARIANTS
@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"label_len": 12},
        {"label_len": 4},
        {"lookback": 13, "label_len": 3, "horizon": 30},
        {"decoder_layers": 3, "encoder_layers": 3},
        {"d_model": 15, "n_heads": 3},
        {"channels": 1, "activation": "relu"},
        {"n_heads": 3, "head_size": 5},
        {"factor": 50},
        {"lookback": 1, "label_len": 1, "horizon": 1},
        {"lookback": 1, "label_len": 0, "horizon": 1},
        {"moving_avg": 51},
        {"moving_avg": 4},
        {"marks": 0},
    ],
    ids=str,
)
def test_sizes_other_than_published(odd_lengths: str, values: dict[str, Any]) -> None:
    model = _model(odd_lengths=odd_lengths, **values)
    forecast = model(*_inputs(model))
    assert forecast.shape == (2, model.config.horizon, model.config.channels)
    assert forecast.isfinite().all()
    model.train()(*_inputs(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_targets_choose_output_channels() -> None:
    model = _model(targets=(2, 0))
    inputs = _inputs(model)
    assert model(*inputs).shape == (2, 5, 2)
    assert model.get_parameter("decoder.projection.weight").shape == (2, 8)
    assert model.get_parameter("decoder.layers.0.trend.weight").shape == (2, 8, 3)
    with torch.no_grad():
        for name in model.output_layer():
            model.get_parameter(name).zero_()
        model.get_parameter("decoder.projection.bias").zero_()
    mean = inputs[0].mean(1, keepdim=True)[..., [2, 0]].expand(-1, 5, -1)
    torch.testing.assert_close(model(*inputs), mean)


def test_marks_reach_the_forecast_and_may_not_be_left_out() -> None:
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    assert not torch.allclose(model(x, x_mark, y_mark), model(x, x_mark, y_mark + torch.rand_like(y_mark)))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)


@VARIANTS
def test_a_sample_is_forecast_alone_as_in_a_batch(odd_lengths: str) -> None:
    """In training the delays are a batch's."""
    model = _model(odd_lengths=odd_lengths, lookback=13, dropout=0.0).double()
    inputs = [part.double() for part in _inputs(model, batch=20)]
    alone = torch.cat([model(*(part[i : i + 1] for part in inputs)) for i in range(20)])
    torch.testing.assert_close(model(*inputs), alone, rtol=0, atol=1e-12)
    assert (model.train()(*inputs) - alone).abs().max() > 1e-3


def test_the_variants_differ_in_streams_of_odd_length_only() -> None:
    for lookback, same in ((12, True), (13, False)):
        resampled, exact = (_model(odd_lengths=kind, lookback=lookback) for kind in ("resampled", "exact"))
        assert torch.equal(*(model(*_fixed(model)) for model in (resampled, exact))) is same
    assert published("autoformer").config({})["odd_lengths"] == "resampled"
    assert published("autoformer", "original").config({})["odd_lengths"] == "exact"


def _fixed(model: ForecastModel) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    return _inputs(model)


def test_training_is_the_same_for_the_same_seed() -> None:
    model = _model(dropout=0.3).train()
    inputs = _inputs(model)
    forecasts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        forecasts.append(model(*inputs))
    assert torch.equal(forecasts[0], forecasts[1])
    assert not torch.equal(forecasts[0], forecasts[2])


def test_dropout_in_training_is_distributed_as_the_published(monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = _model(dropout=0.2, factor=50).train(), 5000  # all delays: the samples share no choice
    inputs = [part.expand(samples, -1, -1) for part in _inputs(model, batch=1)]
    with torch.no_grad():
        ours = model(*inputs)
        monkeypatch.setattr(Dropout, "forward", lambda self, x: torch.nn.functional.dropout(x, self.p))
        monkeypatch.setattr(Dropout, "added", lambda self, x, y: x + self(y))
        monkeypatch.setattr(FeedForward, "forward", _forward_plain)
        published = model(*inputs)
    deviations = (published.var(0) + ours.var(0)).sqrt() / samples**0.5
    assert ((ours.mean(0) - published.mean(0)) / deviations).abs().max() < 4.5
    assert (ours.std(0) / published.std(0) - 1).abs().max() < 0.1


def _forward_plain(self: FeedForward, x_BLD: Tensor) -> Tensor:
    result: Tensor = self.down(self.dropout(self.activation(self.up(x_BLD))))
    return result


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"factor": 0}, "model.factor"),
        ({"moving_avg": 0}, "model.moving_avg"),
        ({"moving_avg": [5, 7]}, "model.moving_avg"),
        ({"odd_lengths": "even"}, "model.odd_lengths"),
        ({"n_heads": 3}, r"n_heads: expected a divisor of d_model \(8\) or head_size beside it, found 3"),
        ({"position_embedding": True}, "unknown key 'model.position_embedding'"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "autoformer"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_the_divisor_of_correlations_stays_dense() -> None:
    model = _model()
    keep = {"encoder.layers.0.attention.heads": torch.tensor([1]), "encoder.width": torch.tensor([0, 1, 5])}
    smaller = build(model.shrunk_config(keep))
    layers = (layer for layer in smaller.modules() if isinstance(layer, AutoCorrelation))
    assert {layer.delays.features for layer in layers} == {8}
    assert config_from(smaller.config.model_dump(mode="json")) == smaller.config


def test_two_units_of_a_stream_must_stay() -> None:
    """One alone correlates with itself as much at a delay as at the opposite one."""
    groups = {group.name: group.minimum for group in _model().groups() if group.minimum > 1}
    assert groups == {"encoder.width": 2, "decoder.width": 2}
    assert {group.minimum for group in _model(d_model=1, n_heads=1).groups()} == {1}


def test_prunable_names_are_weights_of_the_model() -> None:
    model = _model()
    names = model.prunable()
    assert set(model.output_layer()) == {"decoder.layers.0.trend.weight", "decoder.projection.weight"}
    assert set(names) == {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert model.unused_parameters() == ()


@pytest.mark.slow
@VARIANTS
def test_half_of_every_group_saves_learns_and_exports(odd_lengths: str, tmp_path: Path) -> None:
    check_half("autoformer", tmp_path, odd_lengths=odd_lengths, lookback=16, targets=(2, 0))


@pytest.mark.parametrize("sparsity", [0.3, 0.75])
def test_a_structured_pruning_at_paper_size_meets_its_budget(sparsity: float) -> None:
    with torch.random.fork_rng(devices=[]):
        model = build(config_from({"name": "autoformer", "channels": 7})).eval()
    config = PruneConfig(method="structured-magnitude", sparsity=sparsity)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    dense = dense_macs(model.config)
    assert pruned.outcome.realised == dense - dense_macs(pruned.model.config)
    assert abs(pruned.outcome.realised - sparsity * dense) < 0.01 * dense
