"""The encoder-decoder that Autoformer and FEDformer share: a season that is refined, a trend that adds up.

Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting",
section 3.1 and figure 1; the learned mixture of several moving averages is that of Zhou et al. 2022, "FEDformer",
section 3.5. Layers part their stream into season and trend after every sublayer. What differs between the models comes
from outside: the embedding with or without a position table, and what stands in the place of attention, which is any
layer that mixes the steps of a stream with those of a memory.
A layer takes its stream first and returns it, so a layer that is removed is one that passes its first argument on.

B batch, L look-back, T = label_len + H decoder steps, H horizon, C channels, F calendar features, K windows,
D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear, centred, linear, over_time
from prunecast.models.base import ForecastModel, Layer, LinearMap, Streams, Units, check_inputs, decoder_input, reads
from prunecast.models.layers.blocks import (
    DataEmbedding,
    Encoder,
    FeedForward,
    TokenConvolution,
    as_kernel,
    kernel_matrix,
    last,
    neighbours,
)
from prunecast.models.layers.transforms import window_counts
from prunecast.models.layers.widths import EncoderDecoderConfig

FEWEST = 2
"""Units of a stream. Of one a normalisation leaves nothing, and it correlates with itself forwards as backwards: which
of two equal delays is chosen would be a matter of rounding."""

Window = Annotated[int, Field(ge=1, le=10_001)]


class DecompositionConfig(EncoderDecoderConfig):
    """Published keys of an encoder-decoder that decomposes; defaults are the published run's at paper size."""

    moving_avg: Window | Annotated[tuple[Window, ...], Field(min_length=1)] = Field(
        25, description="steps of the moving average that gives the trend; several: their learned mixture"
    )

    @property
    def windows(self) -> tuple[int, ...]:
        """Steps of each moving average."""
        return (self.moving_avg,) if isinstance(self.moving_avg, int) else self.moving_avg

    def decomposition(self, length: int) -> Decomposition:
        """Returns a new decomposition of series of `length` steps; a list of windows, even of one, is a mixture."""
        return Decomposition(length, self.windows, mixed=not isinstance(self.moving_avg, int))


class Decomposition(Layer):
    """Parts a stream into its moving average over time and the rest; edge values are repeated beyond the edges.

    Mixed: each value weighs the moving averages itself, by a softmax of a linear map of it. With one window that
    weight is 1, so `mixture` never reaches the forecast then.
    """

    unprunable = ("mixture.weight",)
    remainders_KLL: Tensor

    def __init__(self, length: int, windows: tuple[int, ...], *, mixed: bool = False) -> None:
        super().__init__()
        assert mixed or len(windows) == 1, "several moving averages are mixed"
        self.windows = windows
        self.mixture = nn.Linear(1, len(windows)) if mixed else None
        # what a moving average leaves, times its window: whole numbers, which are exact in every precision
        remainders = [window * torch.eye(length) - window_counts(length, window).T for window in windows]
        self.register_buffer("remainders_KLL", torch.stack(remainders), persistent=False)

    def forward(self, x_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns season and trend, both (B, L, D)."""
        season_BLD = self.season(x_BLD)
        return season_BLD, x_BLD - season_BLD

    def season(self, x_BLD: Tensor) -> Tensor:
        """Returns the season alone, (B, L, D)."""
        seasons = [
            over_time(remainder_LL / window, x_BLD)
            for remainder_LL, window in zip(self.remainders_KLL, self.windows, strict=True)
        ]
        if self.mixture is None or len(seasons) == 1:
            return seasons[0]
        weight_K11, bias_K11 = self.mixture.weight.unsqueeze(2), self.mixture.bias.view(-1, 1, 1)
        weights_BKLD = (x_BLD.unsqueeze(1) * weight_K11 + bias_K11).softmax(dim=1)
        return (weights_BKLD * torch.stack(seasons, dim=1)).sum(1)

    def unused(self) -> tuple[str, ...]:
        """The learned mixture of a single moving average, whose weight is 1."""
        single = self.mixture is not None and len(self.windows) == 1
        return ("mixture.weight", "mixture.bias") if single else ()


class TrendProjection(TokenConvolution):
    """Convolution over three neighbouring steps, circular at the ends, from a wide stream to a few channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(width, channels)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # the published start, that of any convolution

    def forward(self, x_BTE: Tensor, decomposition: Decomposition | None = None, steps: int | None = None) -> Tensor:
        """Returns the projection of x, or of its trend where a decomposition is given, (B, T, C).

        Args:
            x_BTE: the stream.
            decomposition: without a mixture, so that it is linear.
            steps: how many of the last steps are returned; all when absent.
        """
        # first the product, then averages and shifts: of 3C columns, not of E
        products_BTN = linear(x_BTE, self.weight.permute(2, 0, 1).flatten(0, 1), training=self.training)
        trends_BTN = products_BTN if decomposition is None else decomposition(products_BTN)[1]
        before, here, after = trends_BTN.chunk(3, dim=2)
        before = torch.cat([before[:, -1:], before[:, :-1]], dim=1)
        y_BTC = before + here + torch.cat([after[:, 1:], after[:, :1]], dim=1)
        return y_BTC if steps is None else last(y_BTC, steps)

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the one map that it is, of the steps that are returned."""

        def features(x_BTE: Tensor, decomposition: Decomposition | None = None, steps: int | None = None) -> Tensor:
            trend_BTE = x_BTE if decomposition is None else x_BTE - decomposition.season(x_BTE)
            features_BTI = neighbours(trend_BTE)
            return last(features_BTI, steps or x_BTE.shape[1]).flatten(0, 1).unsqueeze(0)

        return {
            "": LinearMap(
                parameters=("weight",),
                bias=None,
                features=features,
                matrix=lambda tensors: kernel_matrix(tensors["weight"]).unsqueeze(0),
                tensors=lambda matrix_1OI: {"weight": as_kernel(matrix_1OI[0])},
            )
        }


class SeasonalNorm(Layer):
    """Layer normalisation, then minus its mean over time: a season has no level. The norm's bias cancels out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        return centred(self.norm(x_BLD), training=self.training)


class DecompositionEncoderLayer(Layer):
    """Self-attention, feed-forward; of each sum only the season goes on."""

    def __init__(self, config: DecompositionConfig, attention: Layer, d_ff: int) -> None:
        super().__init__()
        width = config.encoder_widths.width
        self.attention = attention
        self.feed_forward = FeedForward(width, d_ff, config.activation, config.dropout, bias=False)
        self.decomposition1, self.decomposition2 = (config.decomposition(config.lookback) for _ in range(2))
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        x_BLD = self.decomposition1.season(self.dropout.added(x_BLD, self.attention(x_BLD, x_BLD)))
        return self.decomposition2.season(self.dropout.added(x_BLD, self.feed_forward(x_BLD)))

    def streams(self) -> Streams:
        """The stream is its own memory."""
        return {"attention": {"memory": "stream"}}


class DecompositionDecoderLayer(Layer):
    """Self-attention, attention to the encoder, feed-forward; the trends of the three sums add to the forecast."""

    def __init__(self, config: DecompositionConfig, self_attention: Layer, cross_attention: Layer, d_ff: int) -> None:
        super().__init__()
        width, steps = config.decoder_widths.width, config.label_len + config.horizon
        self.horizon = config.horizon
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.feed_forward = FeedForward(width, d_ff, config.activation, config.dropout, bias=False)
        self.decomposition1, self.decomposition2, self.decomposition3 = (config.decomposition(steps) for _ in range(3))
        self.trend = TrendProjection(width, config.outputs)
        self.dropout = Dropout(config.dropout)

    def forward(self, stream: tuple[Tensor, Tensor], memory_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the stream: the season (B, T, E), and the trend of the forecast so far, (B, H, C)."""
        x_BTE, trend_BHC = stream
        sum1 = self.dropout.added(x_BTE, self.self_attention(x_BTE, x_BTE))
        season1 = self.decomposition1.season(sum1)
        sum2 = self.dropout.added(season1, self.cross_attention(season1, memory_BLD))
        season2 = self.decomposition2.season(sum2)
        sum3 = self.dropout.added(season2, self.feed_forward(season2))
        season3 = self.decomposition3.season(sum3)
        sums = (sum1 + sum2).add_(sum3)
        if self.decomposition1.mixture is None:  # linear: one moving average of the few columns is the same
            trend_of_layer_BHC = self.trend(sums, self.decomposition1, self.horizon)
        else:
            trend_of_layer_BHC = self.trend(sums - season1 - season2 - season3, None, self.horizon)
        return season3, trend_BHC + trend_of_layer_BHC

    def streams(self) -> Streams:
        """The stream is its own memory in self-attention; the trend's projection reads it."""
        return {"self_attention": {"memory": "stream"}, "trend": reads("stream")}


class SeasonalDecoder(Layer):
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

    def streams(self) -> Streams:
        """The projection reads the stream."""
        return {"projection": reads("stream")}


class DecompositionModel(ForecastModel):
    """Season and trend of the look-back, continued apart and added."""

    uses_marks = True
    config: DecompositionConfig

    def __init__(
        self,
        config: DecompositionConfig,
        encoder_layers: Iterable[DecompositionEncoderLayer],
        decoder_layers: Iterable[DecompositionDecoderLayer],
        *,
        position: bool,
    ) -> None:
        super().__init__(config)
        norm = SeasonalNorm(config.encoder_widths.width)
        encoder = Encoder(config, encoder_layers, norm, position=position)
        decoder = SeasonalDecoder(config, decoder_layers, position=position)
        self.decomposition = config.decomposition(config.lookback)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        check_inputs(self.config, x_BLC, x_mark_BLF, y_mark_BTF)
        # The trend of the known steps never reaches the horizon: there it starts from the mean of the look-back.
        trend_BHC = self.select(x_BLC.mean(1, keepdim=True)).expand(-1, self.config.horizon, -1)
        season_BLC = self.decomposition.season(x_BLC)
        memory_BLD = self.encoder(x_BLC, x_mark_BLF)
        season_BTC = decoder_input(self.config, season_BLC)
        return cast("Tensor", self.decoder(season_BTC, y_mark_BTF, memory_BLD, trend_BHC))

    def output_layer(self) -> tuple[str, ...]:
        """The final projection of the season, and those of each layer's trend."""
        trends = (f"decoder.layers.{layer}.trend.weight" for layer in range(len(self.decoder.layers)))
        return (*trends, "decoder.projection.weight")

    def streams(self) -> Streams:
        """Two residual streams; the decoder looks at the encoder's."""
        return {
            "encoder": {"stream": "encoder.width"},
            "decoder": {"stream": "decoder.width", "memory": "encoder.width"},
        }

    def units(self) -> dict[str, Units]:
        """The width of both streams, whole layers."""
        width, layers = Units("width", minimum=FEWEST), Units("layer")
        return {"encoder.width": width, "decoder.width": width, "encoder.layers": layers, "decoder.layers": layers}
