"""DLinear and the naive forecasts on series whose answer is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.layers.transforms import window_counts


def _model(name: str, **values: Any) -> ForecastModel:
    sizes = {"channels": 2, "lookback": 8, "horizon": 5, "label_len": 2}
    return build(config_from({"name": name} | sizes | values)).eval()


def _series() -> torch.Tensor:
    """(1, 8, 2): 0, 1, 2, ... and 100, 101, 102, ..."""
    return torch.stack([torch.arange(8.0), 100 + torch.arange(8.0)], dim=1).unsqueeze(0)


def test_repeat_gives_the_last_value() -> None:
    assert _model("repeat")(_series())[0].T.tolist() == [[7.0] * 5, [107.0] * 5]


def test_seasonal_naive_gives_the_last_season_in_step() -> None:
    forecast = _model("seasonal_naive", period=3)(_series())
    assert forecast[0].T.tolist() == [[5.0, 6.0, 7.0, 5.0, 6.0], [105.0, 106.0, 107.0, 105.0, 106.0]]


def test_seasonal_naive_with_a_season_longer_than_the_horizon() -> None:
    assert _model("seasonal_naive", period=7)(_series())[0, :, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_season_that_was_not_seen_is_refused() -> None:
    with pytest.raises(UserError, match=r"period: expected at most lookback \(8\), found 24"):
        _model("seasonal_naive")


@pytest.mark.parametrize("name", ["repeat", "seasonal_naive"])
def test_naive_forecasts_have_nothing_to_train_or_prune(name: str) -> None:
    model = _model(name, **({"period": 4} if name == "seasonal_naive" else {}))
    assert not model.trainable
    assert not model.state_dict()
    assert not model.prunable()
    assert not model.groups()


@pytest.mark.parametrize("values", [{}, {"period": 4}, {"moving_avg": 5}], ids=str)
def test_targets_choose_channels(values: dict[str, Any]) -> None:
    name = {"": "repeat", "period": "seasonal_naive", "moving_avg": "dlinear"}["".join(values)]
    every, one = _model(name, **values), _model(name, **values, targets=(1,))
    with torch.no_grad():
        for parameter in every.parameters():  # sums are exact, in whatever order a processor takes them
            parameter.mul_(64).round_().div_(64)
    one.load_state_dict(every.state_dict())
    x = 5 * _series()
    assert torch.equal(one(x), every(x)[..., 1:])


def test_dlinear_starts_as_the_mean_of_the_lookback() -> None:
    model = _model("dlinear")
    with torch.no_grad():
        model.get_parameter("seasonal.bias").zero_()
        model.get_parameter("trend.bias").zero_()
    torch.testing.assert_close(model(_series()), _series().mean(1, keepdim=True).expand(1, 5, 2))


@pytest.mark.parametrize("window", [1, 3, 25])
def test_the_moving_average_repeats_the_edges(window: int) -> None:
    x = torch.randn(4, 8)
    half = window // 2
    padded = torch.cat([x[:, :1].expand(-1, half), x, x[:, -1:].expand(-1, half)], dim=1)
    torch.testing.assert_close(x @ window_counts(8, window) / window, padded.unfold(1, window, 1).mean(2))


def test_an_even_moving_average_is_refused() -> None:
    with pytest.raises(UserError, match="moving_avg: expected an odd number of steps, found 4"):
        _model("dlinear", moving_avg=4)
