"""iTransformer: each channel's whole look-back is one token, and attention relates channels instead of steps.

Liu et al. 2024, "iTransformer: Inverted Transformers Are Effective for Time Series Forecasting", section 3; numerically
equal to Time-Series-Library's `iTransformer` and to the authors' own. The calendar features of the look-back are tokens
too; those of the horizon are not used.

B batch, L look-back, H horizon, C channels, O targets, F calendar features and known covariates, N tokens (C + F),
D width of the stream.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import ForecastModel, Layer, Streams, Units, check_inputs, reads, writes
from prunecast.models.layers.blocks import Attention, EncoderLayer
from prunecast.models.layers.transforms import standardised
from prunecast.models.layers.widths import EncoderConfig


class ITransformerConfig(EncoderConfig):
    """Defaults are those of the published command line.

    The authors' scripts take d_model = d_ff = 256 on ETTh1, 128 on ETTh2 and Exchange, and 512 on the wider sets.
    """

    name: Literal["itransformer"] = "itransformer"
    dropout: float = Field(0.1, ge=0, lt=1)


class InvertedEncoder(Layer):
    """Embeds whole series as tokens and relates them layer by layer."""

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.read = config.outputs
        self.embedding = Linear(config.lookback, widths.width)
        self.layers = nn.ModuleList(
            EncoderLayer(config, Attention.of(config, widths.width, layer.heads), layer.d_ff) for layer in widths.layers
        )
        self.norm = nn.LayerNorm(widths.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, series_BNL: Tensor) -> Tensor:
        """Returns the tokens of the targets, which are the first of the series, (B, O, D)."""
        x_BND = self.dropout(self.embedding(series_BNL))
        *layers, last = self.layers
        for layer in layers:
            x_BND = layer(x_BND)
        # After the last attention nothing reads the other channels and the calendar: no work is done for them.
        return cast("Tensor", self.norm(last(x_BND, self.read)[:, : self.read]))

    def streams(self) -> Streams:
        """The embedding writes the stream."""
        return {"embedding": writes("stream")}


class ITransformer(ForecastModel):
    """Inverted encoder and a linear map from each channel's token to its horizon."""

    Config = ITransformerConfig
    uses_marks = True
    last_layer_computes = "first"
    config: ITransformerConfig

    def __init__(self, config: ITransformerConfig) -> None:
        super().__init__(config)
        self.encoder = InvertedEncoder(config)
        self.projection = Linear(config.encoder_widths.width, config.horizon)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, O); the marks of the horizon are not used."""
        check_inputs(self.config, x_BLC, x_mark_BLF)
        if self.config.targets is not None:  # before the other channels: attention does not care for their order
            targets, channels = self.config.targets, range(self.config.channels)
            x_BLC = x_BLC[..., [*targets, *(channel for channel in channels if channel not in targets)]]
        x_BLC, mean_B1C, std_B1C = standardised(x_BLC)
        series_BLN = x_BLC if x_mark_BLF is None else torch.cat([x_BLC, x_mark_BLF], dim=2)
        y_BOH = self.projection(self.encoder(series_BLN.transpose(1, 2)))
        mean_B1O, std_B1O = (part[..., : self.config.outputs] for part in (mean_B1C, std_B1C))
        return cast("Tensor", y_BOH.transpose(1, 2) * std_B1O + mean_B1O)

    def output_layer(self) -> tuple[str, ...]:
        """The map from tokens to the horizon."""
        return ("projection.weight",)

    def streams(self) -> Streams:
        """The projection reads the encoder's stream."""
        return {"encoder": {"stream": "encoder.width"}, "projection": reads("encoder.width")}

    def units(self) -> dict[str, Units]:
        """The width of the stream, whole layers."""
        return {"encoder.width": Units("width"), "encoder.layers": Units("layer")}
