"""Progressive decomposition: layers that part a stream into season and trend after every sublayer.

Wu et al. 2021, "Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term Series Forecasting",
section 3.1; the learned mixture of several moving averages is that of Zhou et al. 2022, "FEDformer", section 3.5.
A layer takes its stream first and returns it, so a layer that is removed is one that passes its first argument on.

B batch, L memory steps, T = label_len + H decoder steps, H horizon, C channels that are returned, K windows,
D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from typing import Annotated, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecast.kernels import Dropout, centred, linear, over_time
from prunecast.models.base import Group, Member
from prunecast.models.layers.embedding import TokenConvolution
from prunecast.models.layers.feedforward import FeedForward
from prunecast.models.layers.groups import inputs, norms, unit_index
from prunecast.models.layers.widths import EncoderDecoderConfig

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


class Decomposition(nn.Module):
    """Parts a stream into its moving average over time and the rest; edge values are repeated beyond the edges.

    Mixed: each value weighs the moving averages itself, by a softmax of a linear map of it. With one window that
    weight is 1, so `mixture` never reaches the forecast then.
    """

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
        return seasons[0] if len(seasons) == 1 else self._mixed(x_BLD, torch.stack(seasons, dim=1))

    def _mixed(self, x_BLD: Tensor, seasons_BKLD: Tensor) -> Tensor:
        assert self.mixture is not None, "several moving averages are mixed"
        weight_K11, bias_K11 = self.mixture.weight.unsqueeze(2), self.mixture.bias.view(-1, 1, 1)
        weights_BKLD = (x_BLD.unsqueeze(1) * weight_K11 + bias_K11).softmax(dim=1)
        return (weights_BKLD * seasons_BKLD).sum(1)


def window_counts(length: int, window: int) -> Tensor:
    """Returns (L, L): how often step i stands in the centred window around step j, ends repeated beyond the edges.

    Whole numbers, so that the moving average is exact in every precision: divide by `window` afterwards. An even
    window reaches one step further back than ahead.
    """
    offsets = torch.arange(window) - window // 2
    steps = (torch.arange(length).unsqueeze(1) + offsets).clamp(0, length - 1)
    return torch.zeros(length, length).scatter_add_(1, steps, torch.ones(length, window)).T


class TrendProjection(TokenConvolution):
    """Convolution over three neighbouring steps, circular at the ends, from a wide stream to a few channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__(width, channels)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # the published start, that of any convolution

    def forward(self, x_BTE: Tensor, decomposition: Decomposition | None = None) -> Tensor:
        """Returns the projection of x, or of its trend where a decomposition is given, (B, T, C)."""
        # first the product, then averages and shifts: of 3C columns, not of E
        products_BTN = linear(x_BTE, self.weight.permute(2, 0, 1).flatten(0, 1), training=self.training)
        trends_BTN = products_BTN if decomposition is None else decomposition(products_BTN)[1]
        last, here, following = trends_BTN.chunk(3, dim=2)
        last = torch.cat([last[:, -1:], last[:, :-1]], dim=1)
        return last + here + torch.cat([following[:, 1:], following[:, :1]], dim=1)


class SeasonalNorm(nn.Module):
    """Layer normalisation, then minus its mean over time: a season has no level. The norm's bias cancels out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        return centred(self.norm(x_BLD), training=self.training)

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        return norms(f"{name}.norm", size=self.norm.normalized_shape[0])


class SeriesAttention(Protocol):
    """What stands in the place of attention: any module that mixes the steps of a stream with those of a memory."""

    def __call__(self, x_BQD: Tensor, memory_BSD: Tensor) -> Tensor:
        """Returns (B, Q, D)."""

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups of units that are its own."""

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns in it."""

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the memory's stream owns in it."""


class DecompositionEncoderLayer(nn.Module):
    """Self-attention, feed-forward; of each sum only the season goes on."""

    def __init__(self, config: DecompositionConfig, attention: SeriesAttention, d_ff: int) -> None:
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

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        heads = self.attention.groups(f"{name}.attention")
        return (*heads, self.feed_forward.unit_group(f"{name}.feed_forward"))

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return (
            *self.attention.width_members(f"{name}.attention"),
            *self.attention.memory_members(f"{name}.attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
        )


class DecompositionDecoderLayer(nn.Module):
    """Self-attention, attention to the encoder, feed-forward; the trends of the three sums add to the forecast."""

    def __init__(
        self,
        config: DecompositionConfig,
        self_attention: SeriesAttention,
        cross_attention: SeriesAttention,
        d_ff: int,
    ) -> None:
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
        trend_BTC = self._trend((sum1, sum2, sum3), (season1, season2, season3))
        return season3, trend_BHC + trend_BTC[:, trend_BTC.shape[1] - self.horizon :]

    def _trend(self, sums: tuple[Tensor, ...], seasons: tuple[Tensor, ...]) -> Tensor:
        """Returns what the decompositions took away, projected, (B, T, C)."""
        sum_BTE = (sums[0] + sums[1]).add_(sums[2])
        if self.decomposition1.mixture is None:  # linear: one moving average of the few columns is the same
            return cast("Tensor", self.trend(sum_BTE, self.decomposition1))
        return cast("Tensor", self.trend(sum_BTE - seasons[0] - seasons[1] - seasons[2]))

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        return (
            *self.self_attention.groups(f"{name}.self_attention"),
            *self.cross_attention.groups(f"{name}.cross_attention"),
            self.feed_forward.unit_group(f"{name}.feed_forward"),
        )

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the decoder's stream owns here."""
        return (
            *self.self_attention.width_members(f"{name}.self_attention"),
            *self.self_attention.memory_members(f"{name}.self_attention"),
            *self.cross_attention.width_members(f"{name}.cross_attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
            *inputs(f"{name}.trend", unit_index(self.trend.weight.shape[1])),
        )

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return self.cross_attention.memory_members(f"{name}.cross_attention")
