"""DLinear: trend and remainder, each through one linear map over time, shared by all channels.

Zeng et al. 2023, "Are Transformers Effective for Time Series Forecasting?", section 4; numerically equal to
Time-Series-Library's `DLinear` without individual channels.

B batch, L look-back, H horizon, C channels.
"""

from __future__ import annotations

from typing import Literal, Self, cast

from pydantic import Field, model_validator
from torch import Tensor, nn

from prunecast.models.base import ForecasterConfig, ForecastModel
from prunecast.models.layers.transforms import window_counts


class DLinearConfig(ForecasterConfig):
    """Published default: a moving average over 25 steps."""

    name: Literal["dlinear"] = "dlinear"
    moving_avg: int = Field(25, ge=1, le=10_001, description="steps of the moving average that gives the trend")

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.moving_avg % 2 == 0:
            raise ValueError(f"moving_avg: expected an odd number of steps, found {self.moving_avg}")
        return self


class DLinear(ForecastModel):
    """Sum of a linear map of the trend and one of the remainder; there is no layer behind them, so all of it is body.

    Calendar features do not reach the forecast.
    """

    Config = DLinearConfig
    learning_rate = 1e-3  # at the Transformers' rate a linear map is far from done after ten epochs
    config: DLinearConfig
    window_LL: Tensor

    def __init__(self, config: DLinearConfig) -> None:
        super().__init__(config)
        self.seasonal = nn.Linear(config.lookback, config.horizon)
        self.trend = nn.Linear(config.lookback, config.horizon)
        for layer in (self.seasonal, self.trend):  # the published start: the mean of the look-back
            nn.init.constant_(layer.weight, 1 / config.lookback)
        self.register_buffer("window_LL", window_counts(config.lookback, config.moving_avg), persistent=False)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs); the marks are not used."""
        x_BCL = self.select(x_BLC).transpose(1, 2)
        trend_BCL = x_BCL @ self.window_LL / self.config.moving_avg
        y_BCH = self.seasonal(x_BCL - trend_BCL) + self.trend(trend_BCL)
        return cast("Tensor", y_BCH.transpose(1, 2))
