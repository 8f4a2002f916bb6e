"""PatchTST: a channel's look-back is cut into patches, which are the tokens; all channels go through the same model.

Nie et al. 2023, "A Time Series is Worth 64 Words: Long-term Forecasting with Transformers", section 3.1; numerically
equal to Time-Series-Library's `PatchTST`. That has a fixed position table and layer normalisation in its layers, where
the authors' own code learns the table and normalises over the batch. Calendar features do not reach the forecast.

B batch, L look-back, H horizon, O targets, N series (B * O), P patches, K steps of a patch, D width of the stream.
"""

from __future__ import annotations

from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import ForecastModel, Layer, Streams, Units, check_inputs, reads, unit_index, writes
from prunecast.models.layers.blocks import Attention, EncoderLayer, sinusoids
from prunecast.models.layers.transforms import BatchNorm, standardised
from prunecast.models.layers.widths import EncoderConfig


class PatchTSTConfig(EncoderConfig):
    """Defaults are the paper's (appendix A.1.4); for ETTh1 and ETTh2 its scripts take d_model 16, 4 heads, d_ff 128."""

    name: Literal["patchtst"] = "patchtst"
    d_model: int = Field(128, ge=1)
    n_heads: int = Field(16, ge=1)
    d_ff: int = Field(256, ge=1)
    encoder_layers: int = Field(3, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    head_dropout: float | None = Field(0.0, ge=0, lt=1, description="of the forecast; as dropout when null")
    patch_len: int = Field(16, ge=1, description="steps of a patch")
    stride: int = Field(8, ge=1, description="steps from one patch to the next; so many repeat the last value")

    @model_validator(mode="after")
    def _a_patch_fits(self) -> Self:
        if self.patches < 1:
            most = self.lookback + self.stride
            raise ValueError(f"patch_len: expected at most lookback + stride ({most}), found {self.patch_len}")
        return self

    @property
    def patches(self) -> int:
        """How many patches the look-back gives, continued by `stride` steps."""
        return (self.lookback - self.patch_len) // self.stride + 2


class PatchEmbedding(Layer):
    """Linear map of each patch + fixed position table, which is stored, since pruning keeps some of its columns."""

    position: Tensor
    steps_PK: Tensor

    def __init__(self, config: PatchTSTConfig, width: int) -> None:
        super().__init__()
        self.value = Linear(config.patch_len, width, bias=False)
        self.register_buffer("position", sinusoids(config.patches, width))
        starts = torch.arange(config.patches).unsqueeze(1) * config.stride
        steps_PK = (starts + torch.arange(config.patch_len)).clamp(max=config.lookback - 1)
        self.register_buffer("steps_PK", steps_PK, persistent=False)

    def forward(self, x_BLO: Tensor) -> Tensor:
        """Returns the tokens (N, P, D); steps beyond the look-back repeat its last value."""
        if torch.compiler.is_exporting():  # whole rows of the look-back are taken: fewer operators, and longer copies
            patches_BPKO = x_BLO.index_select(1, self.steps_PK.flatten()).view(-1, *self.steps_PK.shape, x_BLO.shape[2])
            patches_NPK = patches_BPKO.movedim(3, 1).flatten(0, 1)
        else:
            patches_NPK = x_BLO.transpose(1, 2).flatten(0, 1)[:, self.steps_PK]
        return cast("Tensor", self.value(patches_NPK) + self.position)

    def streams(self) -> Streams:
        """Both write the stream."""
        return {"value": writes("stream"), "position": {1: "stream"}}


class PatchEncoder(Layer):
    """Embeds the patches of a series and relates them layer by layer."""

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.embedding = PatchEmbedding(config, widths.width)
        self.layers = nn.ModuleList(
            EncoderLayer(config, Attention.of(config, widths.width, layer.heads), layer.d_ff) for layer in widths.layers
        )
        self.norm = BatchNorm(widths.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLO: Tensor) -> Tensor:
        """Returns the patches (N, P, D) of each series."""
        x_NPD = self.dropout(self.embedding(x_BLO))
        for layer in self.layers:
            x_NPD = layer(x_NPD)
        return cast("Tensor", self.norm(x_NPD))


class PatchTST(ForecastModel):
    """Encoder over patches and a linear map from all of them to the horizon, both shared by all channels."""

    Config = PatchTSTConfig
    config: PatchTSTConfig

    def __init__(self, config: PatchTSTConfig) -> None:
        super().__init__(config)
        self.encoder = PatchEncoder(config)
        self.head = Linear(config.encoder_widths.width * config.patches, config.horizon)
        self.dropout = Dropout(config.dropout if config.head_dropout is None else config.head_dropout)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, O); the marks are not used."""
        check_inputs(self.config, x_BLC)
        x_BLO, mean_B1O, std_B1O = standardised(self.select(x_BLC))
        patches_NPD = self.encoder(x_BLO)
        y_NH = self.dropout(self.head(patches_NPD.transpose(1, 2).flatten(1)))
        y_BOH = y_NH.view(-1, self.config.outputs, self.config.horizon)
        return cast("Tensor", y_BOH.transpose(1, 2) * std_B1O + mean_B1O)

    def output_layer(self) -> tuple[str, ...]:
        """The map from patches to the horizon."""
        return ("head.weight",)

    def streams(self) -> Streams:
        """The head reads each unit of the stream at every patch."""
        index = unit_index(self.config.encoder_widths.width, self.config.patches)
        return {"encoder": {"stream": "encoder.width"}, "head": reads(("encoder.width", index))}

    def units(self) -> dict[str, Units]:
        """The width of the stream, whole layers."""
        return {"encoder.width": Units("width"), "encoder.layers": Units("layer")}
