"""Naive forecasts: what any model has to beat. Nothing to fit, nothing to prune.

B batch, L look-back, H horizon, C channels.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from prunecast.models.base import ForecasterConfig, ForecastModel


class RepeatConfig(ForecasterConfig):
    """The last value has no settings."""

    name: Literal["repeat"] = "repeat"


class Repeat(ForecastModel):
    """The last value, for the whole horizon."""

    Config = RepeatConfig
    trainable = False
    config: RepeatConfig

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        return self.select(x_BLC[:, -1:]).repeat(1, self.config.horizon, 1)


class SeasonalNaiveConfig(ForecasterConfig):
    """How long a season is."""

    name: Literal["seasonal_naive"] = "seasonal_naive"
    period: int = Field(24, ge=1, description="steps of one season; a day of hours")

    @model_validator(mode="after")
    def _season_seen(self) -> Self:
        if self.period > self.lookback:
            raise ValueError(f"period: expected at most lookback ({self.lookback}), found {self.period}")
        return self


class SeasonalNaive(ForecastModel):
    """The last season of the look-back, again and again."""

    Config = SeasonalNaiveConfig
    trainable = False
    config: SeasonalNaiveConfig

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        horizon, period = self.config.horizon, self.config.period
        seasons = -(-horizon // period)
        return self.select(x_BLC[:, -period:]).repeat(1, seasons, 1)[:, :horizon]
