"""SparseTSF on periodic series, written out phase by phase, with sizes that are no whole periods, and its mistakes."""

from __future__ import annotations

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

SMALL = {"channels": 3, "lookback": 20, "horizon": 10, "label_len": 4, "period_len": 5}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "sparsetsf"} | SMALL | values)).double().eval()


def _inputs(model: ForecastModel, batch: int = 4) -> Tensor:
    return torch.randn(batch, model.config.lookback, model.config.channels, dtype=torch.double) * 2 + 3


def _phase_by_phase(model: ForecastModel, x_BLC: Tensor) -> Tensor:
    """The paper's section 3.2, one phase of the period after the other, for whole periods."""
    period, lookback = model.config.period_len, model.config.lookback
    mean = x_BLC.mean(1, keepdim=True)
    centred, half = x_BLC - mean, period // 2
    padded = torch.nn.functional.pad(centred, (0, 0, half, half))
    kernel = model.get_parameter("aggregation.weight")[0, 0]
    near = sum(weight * padded[:, step : step + lookback] for step, weight in enumerate(kernel))
    gathered = centred + near
    y = x_BLC.new_empty(len(x_BLC), model.config.horizon, x_BLC.shape[2])
    for phase in range(period):
        y[:, phase::period] = model.map(gathered[:, phase::period].transpose(1, 2)).transpose(1, 2)
    return y + mean


@pytest.mark.parametrize("model_type", ["linear", "mlp"])
@pytest.mark.parametrize(
    "values", [{}, {"period_len": 1}, {"period_len": 10}, {"period_len": 20, "horizon": 20}, {"channels": 1}], ids=str
)
def test_each_phase_is_forecast_from_itself(model_type: str, values: dict[str, Any]) -> None:
    model = _model(model_type=model_type, **values)
    x = _inputs(model)
    expected = _phase_by_phase(model, x)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.train()(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("lookback", "horizon"), [(20, 10), (23, 10), (20, 12), (24, 13), (5, 1)])
def test_a_periodic_series_goes_on_whatever_the_sizes(lookback: int, horizon: int) -> None:
    model = _model(lookback=lookback, horizon=horizon)
    with torch.no_grad():
        model.get_parameter("aggregation.weight").zero_()
        model.get_parameter("map.weight").zero_()[:, -1] = 1  # what the last period was
    season = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0], dtype=torch.double)
    series = season.repeat(9)[: lookback + horizon]
    forecast = model(series[None, :lookback, None].expand(1, lookback, 3))
    torch.testing.assert_close(forecast[0, :, 1], series[lookback:])


def test_steps_that_fill_no_period_take_part_in_mean_and_aggregation_alone() -> None:
    model, x = _model(lookback=23), torch.randn(2, 23, 3, dtype=torch.double)
    other = x.clone()
    other[:, :3] = x[:, :3].flip(1)
    assert not torch.allclose(model(other), model(x))
    with torch.no_grad():
        model.get_parameter("aggregation.weight").zero_()
    torch.testing.assert_close(model(other), model(x))


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one() -> None:
    longer, shorter = _model(horizon=10), _model(horizon=7)
    shorter.load_state_dict(longer.state_dict())
    x = _inputs(longer)
    assert torch.equal(shorter(x), longer(x)[:, :7])


@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({}, 25 + 4 * 4),
        ({"lookback": 720, "horizon": 720}, 25 + 30 * 30),
        ({"model_type": "mlp"}, 25 + 4 * 128 + 128 + 128 * 4 + 4),
    ],
    ids=str,
)
def test_parameters(values: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "sparsetsf", "channels": 7} | values))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_targets_choose_channels_and_marks_are_not_used() -> None:
    every, some = _model(), _model(targets=(2, 0))
    some.load_state_dict(every.state_dict())
    x = _inputs(every)
    torch.testing.assert_close(some(x, torch.randn(4, 20, 4), torch.randn(4, 14, 4)), every(x)[..., [2, 0]])


def test_all_of_the_linear_map_is_body_and_it_has_no_units() -> None:
    model = _model()
    assert model.prunable() == ("aggregation.weight", "map.weight")
    assert model.output_layer() == ()
    with pytest.raises(UserError, match="model 'sparsetsf' has no units of kinds head, ffn, width"):
        prune_model(
            model,
            PruneConfig(method="structured-magnitude"),
            seed=1,
            cost=dense_macs,
            weight_cost=macs_per_weight,
        )


def test_hidden_units_of_the_perceptron_are_pruned() -> None:
    model = _model(model_type="mlp", d_model=16)
    assert model.prunable() == ("aggregation.weight", "map.0.weight", "map.2.weight")
    assert model.output_layer() == ("map.2.weight",)
    pruned = prune_model(
        model,
        PruneConfig(method="structured-magnitude", sparsity=0.4),
        seed=1,
        cost=dense_macs,
        weight_cost=macs_per_weight,
    )
    kept, of = pruned.outcome.kept_units["map.units"]
    assert of == 16
    assert pruned.model.config.d_model == kept < 16


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"period_len": 21}, r"period_len: expected at most lookback \(20\), found 21"),
        ({"model_type": "cnn"}, "model.model_type: .*found 'cnn'"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "sparsetsf"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_a_wrong_lookback_is_refused() -> None:
    with pytest.raises(UserError, match=r"x: expected \(batch, 20, 3\), found \(4, 19, 3\)"):
        _model()(torch.randn(4, 19, 3))


@pytest.mark.parametrize("model_type", ["linear", "mlp"])
def test_a_published_checkpoint_has_other_names(model_type: str) -> None:
    model = _model(model_type=model_type)
    theirs = {
        name.replace("aggregation.", "conv1d.").replace("map.", "linear." if model_type == "linear" else "mlp."): tensor
        for name, tensor in model.state_dict().items()
    }
    state = published_state(model, theirs, "original")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    hidden = {} if model_type == "linear" else {"d_model": 128}
    assert published("sparsetsf", "original").sizes(theirs) == {"model_type": model_type} | hidden


def test_half_of_everything_is_saved_loaded_tuned_and_exported(tmp_path: Path) -> None:
    check_half("sparsetsf", tmp_path, model_type="linear")
