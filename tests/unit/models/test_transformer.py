"""The Transformer beyond its published sizes: shapes, marks, targets, widths, mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.kernels import Dropout, attention
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.convert.convert import published, published_state
from prunecast.models.layers.blocks import DataEmbedding, sinusoids

SMALL = {"channels": 3, "lookback": 12, "horizon": 5, "label_len": 4, "d_model": 8, "n_heads": 2, "d_ff": 6}


def _model(**values: Any) -> ForecastModel:
    torch.manual_seed(1)
    return build(config_from({"name": "transformer"} | SMALL | values)).eval()


def _inputs(model: ForecastModel, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    config = model.config
    x = torch.randn(batch, config.lookback, config.channels)
    x_mark = torch.randn(batch, config.lookback, config.marks)
    return x, x_mark, torch.randn(batch, config.label_len + config.horizon, config.marks)


def test_parameters_at_paper_size() -> None:
    with torch.device("meta"):
        model = build(config_from({"name": "transformer", "channels": 7}))
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_540_039


@pytest.mark.parametrize(
    "values",
    [
        {"label_len": 0},
        {"label_len": 12},
        {"decoder_layers": 3, "encoder_layers": 3},
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


def test_targets_choose_output_channels() -> None:
    model = _model(targets=(2, 0))
    assert model(*_inputs(model)).shape == (2, 5, 2)
    assert model.get_parameter("decoder.projection.weight").shape == (2, 8)


def test_marks_reach_the_forecast_and_may_not_be_left_out() -> None:
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    changed = y_mark.clone()
    changed[:, -1] += 1
    assert not torch.allclose(model(x, x_mark, y_mark), model(x, x_mark, changed))
    with pytest.raises(UserError, match=r"x_mark: expected calendar features \(batch, 12, 4\), found none"):
        model(x)
    with pytest.raises(UserError, match=r"y_mark: expected \(batch, 9, 4\), found \(2, 8, 4\)"):
        model(x, x_mark, y_mark[:, 1:])


def test_a_model_without_marks_takes_none_and_empty_ones() -> None:
    model = _model(marks=0)
    x, x_mark, y_mark = _inputs(model)
    assert torch.equal(model(x), model(x, x_mark, y_mark))
    with pytest.raises(UserError, match="x_mark"):
        model(x, torch.zeros(2, 12, 4))


def test_a_step_of_the_forecast_does_not_see_later_marks() -> None:
    """Self-attention is causal, but the published token convolution is circular: only neighbours leak."""
    model = _model()
    x, x_mark, y_mark = _inputs(model)
    changed = y_mark.clone()
    changed[:, -1] += 1
    moved = (model(x, x_mark, y_mark) - model(x, x_mark, changed)).abs().amax(dim=(0, 2)) > 1e-7
    assert moved.tolist() == [False, False, False, False, True]


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
    model, samples = _model(dropout=0.2, lookback=20, label_len=14).train(), 5000  # long enough for the fast path
    inputs = [part.expand(samples, -1, -1) for part in _inputs(model, batch=1)]
    with torch.no_grad():
        ours = model(*inputs)
        monkeypatch.setattr(attention, "MANY", samples)  # more steps than there are: plain operators
        monkeypatch.setattr(Dropout, "forward", lambda self, x: torch.nn.functional.dropout(x, self.p))
        published = model(*inputs)
    deviations = (published.var(0) + ours.var(0)).sqrt() / samples**0.5
    assert ((ours.mean(0) - published.mean(0)) / deviations).abs().max() < 4.5
    assert (ours.std(0) / published.std(0) - 1).abs().max() < 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_heads": 3}, r"n_heads: expected a divisor of d_model \(8\) or head_size beside it, found 3"),
        ({"dropout": 1.0}, "model.dropout: .*found 1.0"),
        ({"activation": "tanh"}, "model.activation: .*found 'tanh'"),
        ({"d_modell": 8}, "unknown key 'model.d_modell'; did you mean 'd_model'?"),
        ({"encoder": {"width": 5, "layers": []}}, "model.encoder.layers"),
        ({"encoder": {"width": 5, "layers": [{"heads": 1, "d_f": 2}]}}, "model.encoder.layers.0"),
        ({"encoder": {"width": 5, "layers": [{"heads": 1, "d_ff": 2}]}}, "encoder_layers: expected 1"),
        ({"label_len": 13}, "label_len"),
        ({"targets": [3]}, "targets"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        config_from({"name": "transformer"} | SMALL | values)
    assert "\n" not in str(error.value)


def test_a_shrunk_config_is_an_ordinary_config() -> None:
    model = _model(decoder_layers=2)
    keep = {
        "encoder.width": torch.tensor([0, 3, 7]),
        "encoder.layers": torch.tensor([1]),
        "encoder.layers.1.attention.heads": torch.tensor([1]),
        "encoder.layers.0.attention.heads": torch.tensor([0]),
        "decoder.layers.1.cross_attention.heads": torch.tensor([0]),
        "decoder.layers.0.feed_forward.units": torch.tensor([2, 4]),
    }
    config = model.shrunk_config(keep)
    assert config_from(config.model_dump(mode="json")) == config
    values = config.model_dump(mode="json")
    assert values["encoder"] == {"width": 3, "layers": [{"heads": 1, "d_ff": 6}]}
    assert values["decoder"]["width"] == 8
    assert values["decoder"]["layers"] == [
        {"heads": 2, "d_ff": 2, "cross_heads": 2},
        {"heads": 2, "d_ff": 6, "cross_heads": 1},
    ]
    assert (values["encoder_layers"], values["head_size"]) == (1, 4)
    small = build(config)
    assert small(*_inputs(small)).shape == (2, 5, 3)


def test_prunable_names_are_weights_of_the_model() -> None:
    model = _model()
    names = model.prunable()
    assert set(model.output_layer()) <= set(names)
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() > 1}
    assert set(names) == weights


def test_token_convolution_is_the_circular_one() -> None:
    torch.manual_seed(1)
    layer = DataEmbedding(3, 0, 7, 5, position=False)
    circular = torch.nn.Conv1d(3, 5, 3, padding=1, padding_mode="circular", bias=False)
    circular.load_state_dict({"weight": layer.value.weight.detach()})
    x = torch.randn(2, 7, 3)
    torch.testing.assert_close(layer(x, None), circular(x.mT).mT)


def test_sinusoids_of_odd_width_are_those_of_the_next_without_a_column() -> None:
    table = sinusoids(6, 5)
    assert table.shape == (6, 5)
    assert table[0].tolist() == [0, 1, 0, 1, 0]
    angle = 3 * 10000 ** (-2 / 5)
    torch.testing.assert_close(table[3, 2:4], torch.tensor([math.sin(angle), math.cos(angle)]))


def test_import_says_what_does_not_fit() -> None:
    model = _model()
    foreign = {"encoder.norm.weight": torch.ones(8), "nothing.weight": torch.ones(2)}
    with pytest.raises(UserError, match=r"calls decoder.embedding.calendar.weight.*no place for nothing.weight"):
        published_state(model, foreign)
    state = dict(model.named_parameters()) | {"encoder.norm.weight": torch.ones(9)}
    with pytest.raises(UserError, match=r"encoder.norm.weight: expected shape \(8,\) from the config, found \(9,\)"):
        published_state(model, state)
    with pytest.raises(UserError, match="no implementation of it can be imported"):
        published("repeat")
