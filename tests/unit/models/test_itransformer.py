"""iTransformer beyond its published sizes: shapes, marks, targets, widths, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published, published_state
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig

SMALL = {"channels": 5, "lookback": 12, "horizon": 7, "label_len": 4, "d_model": 8, "n_heads": 2, "d_ff": 6}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "itransformer"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels)
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


def test_parameters_at_paper_size() -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "itransformer", "channels": 7}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_404_704


@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"encoder_layers": 3},
        {"encoder_layers": 1},
        {"d_model": 15, "n_heads": 3},
        {"channels": 1, "activation": "relu"},
        {"n_heads": 3, "head_size": 5},
        {"lookback": 1, "label_len": 1, "horizon": 1},
        {"marks": 0},
    ],
    ids=str,
)
def test_sizes_other_than_published(values: dict[str, Any]) -> None:
    model = _model(**values)
    forecast = model(*_inputs(model))
    assert forecast.shape == (2, model.config.horizon, model.config.channels)
    model.train()(*_inputs(model)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("targets", [(3,), (4, 0), (2, 4, 3, 1, 0)], ids=str)
def test_targets_choose_channels_and_all_channels_still_count(targets: tuple[int, ...]) -> None:
    every, some = _model(), _model(targets=targets)
    some.load_state_dict(every.state_dict())
    inputs = _inputs(every)
    torch.testing.assert_close(some(*inputs), every(*inputs)[..., list(targets)])
    if 1 not in targets:
        other = inputs[0].clone()
        other[:, 3, 1] += 1
        assert not torch.allclose(some(other, *inputs[1:]), some(*inputs))


def test_no_feed_forward_is_spent_on_what_is_not_forecast() -> None:
    """The last layer computes the targets alone, after it has looked at all channels and the calendar."""
    counts = {targets: dense_macs(_model(targets=targets).config) for targets in (None, (0,))}
    width, hidden, horizon, tokens = 8, 6, 7, 9
    a_token = 2 * width * width + 2 * tokens * width + 2 * width * hidden + horizon * width  # query, out, attention
    assert counts[None] - counts[0,] == 4 * a_token


def test_marks_of_the_lookback_reach_the_forecast_and_those_of_the_horizon_do_not() -> None:
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    changed = x_mark.clone()
    changed[:, 0] += 1
    assert not torch.allclose(model(x, x_mark), model(x, changed))
    assert torch.equal(model(x, x_mark), model(x, x_mark, y_mark))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)
    with pytest.raises(UserError, match=r"x: expected \(batch, 12, 5\), found \(2, 11, 5\)"):
        model(x[:, 1:], x_mark)


def test_without_marks_it_takes_none_and_empty_ones() -> None:
    model = _model(marks=0)
    x, x_mark, y_mark = _inputs(model)
    assert torch.equal(model(x), model(x, x_mark, y_mark))
    with pytest.raises(UserError, match="x_mark"):
        model(x, torch.zeros(2, 12, 4))


def test_the_order_of_the_channels_does_not_matter() -> None:
    model = _model()
    x, x_mark, _ = _inputs(model)
    order = [4, 2, 0, 3, 1]
    torch.testing.assert_close(model(x[..., order], x_mark), model(x, x_mark)[..., order])


def test_each_window_is_forecast_in_its_own_units() -> None:
    model = _model()
    x, x_mark, _ = _inputs(model)
    scale, shift = torch.rand(1, 1, 5) + 1, torch.randn(1, 1, 5)
    torch.testing.assert_close(model(x * scale + shift, x_mark), model(x, x_mark) * scale + shift, rtol=1e-4, atol=1e-4)


def test_a_channel_that_stands_still_is_forecast_where_it_stands() -> None:
    model = _model()
    x, x_mark, _ = _inputs(model)
    x[..., 2] = 3.0
    with torch.no_grad():
        forecast = model(x, x_mark)[..., 2]
    assert (forecast - 3).abs().max() < 0.02  # the deviation is taken as 1e-5 ** 0.5


def test_training_is_the_same_for_the_same_seed() -> None:
    model = _model(dropout=0.3).train()
    inputs = _inputs(model)
    forecasts = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        forecasts.append(model(*inputs))
    assert torch.equal(forecasts[0], forecasts[1])
    assert not torch.equal(forecasts[0], forecasts[2])


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model(encoder_layers=2)
    keep = {
        "encoder.width": torch.tensor([0, 3, 7]),
        "encoder.layers": torch.tensor([1]),
        "encoder.layers.1.attention.heads": torch.tensor([1]),
        "encoder.layers.1.feed_forward.units": torch.tensor([2, 4]),
    }
    config = model.shrunk_config(keep)
    assert config_from(config.model_dump(mode="json")) == config
    values = config.model_dump(mode="json")
    assert values["encoder"] == {"width": 3, "layers": [{"heads": 1, "d_ff": 2}]}
    small = build(config)
    assert small(*_inputs(small)).shape == (2, 7, 5)


def test_prunable_names_are_weights_of_the_model() -> None:
    model = _model()
    assert model.output_layer() == ("projection.weight",)
    assert set(model.prunable()) == {name for name, parameter in model.named_parameters() if parameter.dim() > 1}


def test_a_structured_pruning_at_paper_size_meets_its_budget() -> None:
    model = build(config_from({"name": "itransformer", "channels": 7}))
    config = PruneConfig(method="structured-magnitude", sparsity=0.75)
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    assert pruned.outcome.realised / pruned.outcome.total == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("source", ["tslib", "original"])
def test_a_published_checkpoint_shows_its_sizes(source: str) -> None:
    model = _model(encoder_layers=2)
    theirs = _published_names(model, source)
    known = published("itransformer", source)
    assert known.sizes(theirs) == {"lookback": 12, "horizon": 7, "d_model": 8, "d_ff": 6, "encoder_layers": 2}
    state = published_state(model, theirs, source)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def _published_names(model: ForecastModel, source: str) -> dict[str, Tensor]:
    """Returns our tensors under the published names, with kernels of width one."""
    names = (
        ("encoder.embedding.", "enc_embedding.value_embedding."),
        ("projection.", "projector." if source == "original" else "projection."),
        (".layers.", ".attn_layers."),
        *((f"attention.{part}.", f"attention.{part}_projection.") for part in ("query", "key", "value", "out")),
        ("feed_forward.up.", "conv1."),
        ("feed_forward.down.", "conv2."),
    )
    result = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)  # noqa: PLW2901 - one replacement after the other
        result[name] = tensor.unsqueeze(2) if name.endswith(("conv1.weight", "conv2.weight")) else tensor
    return result
