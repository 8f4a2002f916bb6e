"""The encoder-decoder that Autoformer and FEDformer share: a season that is refined, a trend that adds up.

Wu et al. 2021, "Autoformer", section 3.1 and figure 1. What differs between the models comes from outside: the
embedding with or without a position table, and what stands in the place of attention.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates,
D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import ForecastModel, Group, Keep
from prunecast.models.layers.blocks import named
from prunecast.models.layers.decomposition import (
    Decomposition,
    DecompositionConfig,
    DecompositionDecoderLayer,
    DecompositionEncoderLayer,
    SeasonalNorm,
)
from prunecast.models.layers.embedding import DataEmbedding, TokenConvolution
from prunecast.models.layers.groups import inputs, unit_index, weights_of
from prunecast.models.layers.inputs import check_inputs, decoder_input

FEWEST = 2
"""Units of a stream. Of one a normalisation leaves nothing, and it correlates with itself forwards as backwards: which
of two equal delays is chosen would be a matter of rounding."""


class SeasonalEncoder(nn.Module):
    """Embeds the look-back and refines its season layer by layer."""

    def __init__(
        self, config: DecompositionConfig, layers: Iterable[DecompositionEncoderLayer], *, position: bool
    ) -> None:
        super().__init__()
        width = config.encoder_widths.width
        self.embedding = DataEmbedding(config.channels, config.marks, config.lookback, width, position=position)
        self.layers = nn.ModuleList(layers)
        self.norm = SeasonalNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        """Returns the memory (B, L, D) that the decoder looks at."""
        x_BLD = self.dropout(self.embedding(x_BLC, mark_BLF))
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        return cast("Tensor", self.norm(x_BLD))


class SeasonalDecoder(nn.Module):
    """Embeds the known season and the empty horizon; what its layers take for trend adds to the forecast."""

    def __init__(
        self, config: DecompositionConfig, layers: Iterable[DecompositionDecoderLayer], *, position: bool
    ) -> None:
        super().__init__()
        width, steps = config.decoder_widths.width, config.label_len + config.horizon
        self.horizon = config.horizon
        self.embedding = DataEmbedding(config.channels, config.marks, steps, width, position=position)
        self.layers = nn.ModuleList(layers)
        self.norm = SeasonalNorm(width)
        self.projection = Linear(width, config.outputs)
        self.dropout = Dropout(config.dropout)

    def forward(self, season_BTC: Tensor, mark_BTF: Tensor | None, memory_BLD: Tensor, trend_BHC: Tensor) -> Tensor:
        """Returns the forecast (B, H, outputs); the trend is what it starts from, in the channels that it returns."""
        x_BTE = self.dropout(self.embedding(season_BTC, mark_BTF))
        for layer in self.layers:
            x_BTE, trend_BHC = layer((x_BTE, trend_BHC), memory_BLD)
        x_BTE = self.norm(x_BTE)  # its mean takes all steps, of which only the horizon is read
        x_BHE = x_BTE[:, x_BTE.shape[1] - self.horizon :]
        return cast("Tensor", self.projection(x_BHE)) + trend_BHC


class DecompositionForecaster(ForecastModel):
    """Season and trend of the look-back, continued apart and added."""

    uses_marks = True
    config: DecompositionConfig

    def __init__(self, config: DecompositionConfig, encoder: SeasonalEncoder, decoder: SeasonalDecoder) -> None:
        super().__init__()
        self.config = config
        self.decomposition = config.decomposition(config.lookback)
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs).

        Raises:
            UserError: when a shape is not the one of the config; marks may be left out only where it has none.
        """
        check_inputs(self.config, x_BLC, x_mark_BLF, y_mark_BTF)
        # The trend of the known steps never reaches the horizon: there it starts from the mean of the look-back.
        trend_BHC = self.select(x_BLC.mean(1, keepdim=True)).expand(-1, self.config.horizon, -1)
        season_BLC = self.decomposition.season(x_BLC)
        memory_BLD = self.encoder(x_BLC, x_mark_BLF)
        season_BTC = decoder_input(self.config, season_BLC)
        return cast("Tensor", self.decoder(season_BTC, y_mark_BTF, memory_BLD, trend_BHC))

    def prunable(self) -> tuple[str, ...]:
        """The weights of all linear layers and convolutions; no bias, no normalisation, no mixture of averages."""
        return tuple(
            name for name in weights_of(self, nn.Linear, TokenConvolution) if not name.endswith(".mixture.weight")
        )

    def output_layer(self) -> tuple[str, ...]:
        """The final projection of the season, and those of each layer's trend."""
        trends = (f"{name}.trend.weight" for name, _ in named(self.decoder.layers, "decoder.layers"))
        return (*trends, "decoder.projection.weight")

    def unused_parameters(self) -> tuple[str, ...]:
        """The learned mixtures of a single moving average, whose weight is 1."""
        single = (
            name
            for name, module in self.named_modules()
            if isinstance(module, Decomposition) and module.mixture is not None and len(module.windows) == 1
        )
        return tuple(f"{name}.mixture.{part}" for name in single for part in ("weight", "bias"))

    def groups(self) -> tuple[Group, ...]:
        """Heads and feed-forward units of each layer, the width of both streams, whole layers."""
        layers = [*named(self.encoder.layers, "encoder.layers"), *named(self.decoder.layers, "decoder.layers")]
        return (
            *(group for name, layer in layers for group in layer.groups(name)),
            self._encoder_width(),
            self._decoder_width(),
            Group("encoder.layers", "layer", len(self.encoder.layers), stack="encoder.layers"),
            Group("decoder.layers", "layer", len(self.decoder.layers), stack="decoder.layers"),
        )

    def _encoder_width(self) -> Group:
        members = (
            *self.encoder.embedding.width_members("encoder.embedding"),
            *(m for name, layer in named(self.encoder.layers, "encoder.layers") for m in layer.width_members(name)),
            *self.encoder.norm.width_members("encoder.norm"),
            *(m for name, layer in named(self.decoder.layers, "decoder.layers") for m in layer.memory_members(name)),
        )
        width = self.config.encoder_widths.width
        return Group("encoder.width", "width", width, members, normalised=True, minimum=min(FEWEST, width))

    def _decoder_width(self) -> Group:
        width = self.config.decoder_widths.width
        members = (
            *self.decoder.embedding.width_members("decoder.embedding"),
            *(m for name, layer in named(self.decoder.layers, "decoder.layers") for m in layer.width_members(name)),
            *self.decoder.norm.width_members("decoder.norm"),
            *inputs("decoder.projection", unit_index(width)),
        )
        return Group("decoder.width", "width", width, members, normalised=True, minimum=min(FEWEST, width))

    def shrunk_config(self, keep: Keep) -> DecompositionConfig:
        """Returns the config with the widths that `keep` leaves."""
        return self.config.shrunk(keep)
