"""The LSTM against its equations, gate by gate; targets, marks, widths, operations, mistakes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.support.saved_models import saved_model
from torch import Tensor

from prunecast.errors import UserError
from prunecast.measure.operations import count_operations, dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.lstm import LSTMLayer
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

SMALL = {"channels": 3, "lookback": 12, "horizon": 5, "label_len": 4, "d_model": 8}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "lstm"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels) * 2 + 3
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


def _step_by_step(layer: LSTMLayer, x_BLI: Tensor) -> Tensor:
    """Gers et al. 2000, equations 1 to 6 with forget gates, without peepholes."""
    units = layer.recurrent_weight.shape[1]
    state = cell = x_BLI.new_zeros(len(x_BLI), units)
    states = []
    for x in x_BLI.unbind(1):
        sums = x @ layer.input_weight.T + state @ layer.recurrent_weight.T + layer.bias
        enters, stays, new, leaves = sums.split(units, dim=1)
        cell = stays.sigmoid() * cell + enters.sigmoid() * new.tanh()
        state = leaves.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("width", "units"), [(3, 5), (1, 1), (6, 16)])
def test_a_layer_follows_its_equations(width: int, units: int, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer = LSTMLayer(width, units).to(dtype)
    x = torch.randn(4, 9, width, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for train in (True, False):
        with torch.set_grad_enabled(train):
            torch.testing.assert_close(layer.train(train)(x), _step_by_step(layer, x), rtol=0, atol=tolerance)


def test_gradients_follow_the_equations() -> None:
    torch.manual_seed(1)
    layer = LSTMLayer(3, 5).double()
    x = torch.randn(4, 9, 3, dtype=torch.double)
    found, expected = (
        torch.autograd.grad(states.square().sum(), list(layer.parameters()))
        for states in (layer(x), _step_by_step(layer, x))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"encoder_layers": 3},
        {"channels": 1, "marks": 0},
        {"lookback": 1, "label_len": 1, "horizon": 1},
        {"instance_norm": False},
        {"embedding": 3, "units": [5, 2], "encoder_layers": 2},
    ],
    ids=str,
)
def test_sizes(values: dict[str, Any]) -> None:
    model = _model(**values)
    assert model(*_inputs(model)).shape == (4, model.config.horizon, model.config.channels)
    model.train()(*_inputs(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_parameters() -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "lstm", "channels": 7}))
    embedding, layer, head = 11 * 64 + 64, 4 * 64 * (64 + 64 + 1), (64 + 1) * 96 * 7
    assert sum(parameter.numel() for parameter in model.parameters()) == embedding + layer + head == 77_472


def test_targets_are_forecast_from_all_channels() -> None:
    every, some = _model(), _model(targets=(2, 0))
    rows = torch.arange(15).view(5, 3)[:, [2, 0]].flatten()
    state = every.state_dict()
    state |= {name: state[name][rows] for name in ("head.weight", "head.bias")}
    some.load_state_dict(state)
    x, x_mark, y_mark = _inputs(every)
    torch.testing.assert_close(some(x, x_mark), every(x, x_mark, y_mark)[..., [2, 0]])
    other = x.clone()
    other[:, 2, 1] += 1
    assert not torch.allclose(some(other, x_mark), some(x, x_mark))


def test_marks_of_the_lookback_reach_the_forecast_and_may_not_be_left_out() -> None:
    model = _model()
    x, x_mark, _ = _inputs(model)
    changed = x_mark.clone()
    changed[:, 0] += 1
    assert not torch.allclose(model(x, x_mark), model(x, changed))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)
    without = _model(marks=0)
    assert torch.equal(without(x), without(x, torch.zeros(4, 12, 0)))


def test_instance_normalisation_can_be_left_out() -> None:
    x, x_mark, _ = _inputs(_model())
    for instance_norm in (True, False):
        model = _model(instance_norm=instance_norm)
        moved = torch.allclose(model(3 * x - 7, x_mark), 3 * model(x, x_mark) - 7, rtol=1e-3, atol=1e-3)
        assert moved == instance_norm


def test_training_is_the_same_for_the_same_seed() -> None:
    model = _model(dropout=0.3).train()
    inputs = _inputs(model)
    forecasts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        forecasts.append(model(*inputs))
    assert torch.equal(forecasts[0], forecasts[1])
    assert not torch.equal(forecasts[0], forecasts[2])


def test_a_unit_without_weights_stays_at_zero() -> None:
    torch.manual_seed(1)
    model = _model(d_model=5, encoder_layers=1)
    layer, units = model.layers[0], next(group for group in model.groups() if group.name == "layers.0.units")
    with torch.no_grad():
        for member in units.members:
            if member.name.startswith("layers.0."):
                model.get_parameter(member.name).index_fill_(member.dim, member.index[2], 0)
        states = layer(torch.randn(2, 9, 5))
    assert states[..., 2].abs().max() == 0
    assert states[..., [0, 1, 3, 4]].abs().min() > 0


@pytest.mark.parametrize("values", [{}, {"encoder_layers": 2}, {"embedding": 3, "units": [5]}], ids=str)
def test_operations_are_those_of_all_steps(values: dict[str, Any]) -> None:
    saved = saved_model(name="lstm", d_model=16, **values)
    config = saved.model.config
    widths = [config.embedding_width, *config.layer_units]
    layers = sum(4 * units * (width + units) for width, units in pairwise(widths))
    by_hand = config.lookback * (7 * widths[0] + layers) + widths[-1] * config.horizon * 3
    assert dense_macs(config) == by_hand
    assert count_operations(saved).dense_macs == by_hand
    with torch.backends.mkldnn.flags(enabled=False, allow_tf32=None):  # then torch takes it step by step
        assert count_operations(saved).dense_macs == by_hand
    per_weight = macs_per_weight(saved.model)
    assert set(per_weight) == set(saved.model.prunable())
    assert per_weight["layers.0.recurrent_weight"] == per_weight["embedding.weight"] == config.lookback


def test_pruned_weights_of_the_gates_are_no_operations() -> None:
    saved = saved_model(name="lstm", d_model=16)
    dense = count_operations(saved)
    with torch.no_grad():
        saved.model.get_parameter("layers.0.recurrent_weight")[:10] = 0
    assert dense.effective_macs - count_operations(saved).effective_macs == 10 * 16 * 24


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model(encoder_layers=2)
    config = model.shrunk_config({"embedding.width": torch.tensor([1, 4]), "layers.1.units": torch.tensor([0, 2, 7])})
    assert config_from(config.model_dump(mode="json")) == config
    assert (config.embedding, config.units) == (2, (8, 3))
    small = build(config)
    assert small(*_inputs(small)).shape == (4, 5, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": [3, 4]}, r"encoder_layers: expected 2, as units, found 1"),
        ({"units": [0]}, r"units: expected at least 1 in each layer, found \[0\]"),
        ({"dropout": 1.0}, "model.dropout: .*found 1.0"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "lstm"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_a_structured_pruning_meets_its_budget() -> None:
    model = build(config_from({"name": "lstm", "channels": 7, "encoder_layers": 2, "lookback": 336}))
    config = PruneConfig(method="structured-magnitude", sparsity=0.75)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert pruned.outcome.realised / pruned.outcome.total == pytest.approx(0.75, abs=0.02)
