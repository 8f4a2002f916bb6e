"""SparseTSF: each phase of the period is forecast from the same phase of earlier periods, by one small map for all.

Lin et al. 2024, "SparseTSF: Modeling Long-term Time Series Forecasting with 1k Parameters", section 3; numerically
equal to the authors' code, both with a linear map and with a perceptron (`model_type: mlp`, their later addition),
where look-back and horizon are whole periods. Otherwise the oldest steps, which fill no period, only take part in the
mean and in the aggregation, and of the last period that is forecast as much is returned as the horizon asks for.
Calendar features do not reach the forecast.

B batch, L look-back, H horizon, O targets, N series (B * O), S periods of the look-back, T periods of the horizon,
W steps of a period.
"""

from __future__ import annotations

from typing import Literal, Self, cast

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import Linear
from prunecast.models.base import (
    ForecasterConfig,
    ForecastModel,
    Keep,
    LinearMap,
    Streams,
    Units,
    check_inputs,
    kept,
    reads,
    writes,
)


class SparseTSFConfig(ForecasterConfig):
    """Defaults are those of the published scripts for hourly data; theirs for shorter steps have period_len 4."""

    name: Literal["sparsetsf"] = "sparsetsf"
    period_len: int = Field(24, ge=1, description="steps of a period")
    model_type: Literal["linear", "mlp"] = Field("linear", description="the map from earlier periods to later ones")
    d_model: int = Field(128, ge=1, description="mlp: hidden units")

    @model_validator(mode="after")
    def _a_period_was_seen(self) -> Self:
        if self.period_len > self.lookback:
            raise ValueError(f"period_len: expected at most lookback ({self.lookback}), found {self.period_len}")
        return self

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with the hidden units that `keep` leaves."""
        return self.model_copy(update={"d_model": kept(keep, "map.units", self.d_model)})


class SparseTSF(ForecastModel):
    """A convolution that gathers a phase's neighbourhood, then the map across periods."""

    Config = SparseTSFConfig
    learning_rate = 0.02
    config: SparseTSFConfig

    def __init__(self, config: SparseTSFConfig) -> None:
        super().__init__(config)
        self.seen, self.ahead = config.lookback // config.period_len, -(-config.horizon // config.period_len)
        half = config.period_len // 2
        self.aggregation = nn.Conv1d(1, 1, 1 + 2 * half, padding=half, bias=False)
        if config.model_type == "linear":
            self.map: nn.Module = Linear(self.seen, self.ahead, bias=False)
        else:
            self.map = nn.Sequential(Linear(self.seen, config.d_model), nn.ReLU(), Linear(config.d_model, self.ahead))

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, O); the marks are not used."""
        check_inputs(self.config, x_BLC)
        x_NL, mean_B1O = self._centred(x_BLC)
        x_NL = self.aggregation(x_NL.unsqueeze(1)).squeeze(1) + x_NL
        period, horizon = self.config.period_len, self.config.horizon
        whole_NSW = x_NL[:, x_NL.shape[1] - self.seen * period :].reshape(-1, self.seen, period)
        y_NWT = self.map(whole_NSW.transpose(1, 2))
        y_NH = y_NWT.transpose(1, 2).flatten(1)[:, :horizon]
        return cast("Tensor", y_NH.view(-1, self.config.outputs, horizon).transpose(1, 2) + mean_B1O)

    def _centred(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the series around their means (N, L), and those (B, 1, O)."""
        x_BLO = self.select(x_BLC)
        mean_B1O = x_BLO.mean(1, keepdim=True)
        return (x_BLO - mean_B1O).transpose(1, 2).flatten(0, 1), mean_B1O

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the aggregation's map, from the steps around each step; zeros lie beyond the ends."""
        weight, half = "aggregation.weight", self.config.period_len // 2

        def features(x_BLC: Tensor, *marks: Tensor | None) -> Tensor:
            around_NLI = F.pad(self._centred(x_BLC)[0], (half, half)).unfold(1, 1 + 2 * half, 1)
            return around_NLI.flatten(0, 1).unsqueeze(0)

        return {
            "aggregation": LinearMap(
                parameters=(weight,),
                bias=None,
                features=features,
                matrix=lambda tensors: tensors[weight],
                tensors=lambda matrix_1OI: {weight: matrix_1OI},
            )
        }

    def output_layer(self) -> tuple[str, ...]:
        """The perceptron's last layer; a linear map has no layer behind it, so all of it is body."""
        return () if self.config.model_type == "linear" else ("map.2.weight",)

    def streams(self) -> Streams:
        """From the perceptron's hidden units and back; a linear map has none."""
        if self.config.model_type == "linear":
            return {}
        return {"map.0": writes("map.units"), "map.2": reads("map.units")}

    def units(self) -> dict[str, Units]:
        """The perceptron's hidden units."""
        return {} if self.config.model_type == "linear" else {"map.units": Units("ffn")}
