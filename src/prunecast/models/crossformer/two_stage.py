"""Two-stage attention: tokens of a channel look at each other, then channels at the same segment exchange messages.

Zhang and Yan 2023, "Crossformer: Transformer Utilizing Cross-Dimension Dependency for Multivariate Time Series
Forecasting", section 3.2.

B batch, C channels, S segments, R routers, D width of the stream, W width of the routers.
"""

from __future__ import annotations

from typing import Annotated, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecast.kernels import Dropout, add_norm
from prunecast.models.base import Layer, Streams, Units
from prunecast.models.layers.blocks import Attention, FeedForward
from prunecast.models.layers.widths import Of, Widths

TIME, CHANNEL = 2, 1
"""Dimensions of a stream (B, C, S, D): along which the steps of the first and of the second stage lie."""


class TwoStageWidths(Widths):
    """Of one two-stage layer; all heads have the config's size."""

    time_heads: Annotated[int, Of("time_attention.heads")] = Field(
        ge=1, description="of the attention among a channel's segments"
    )
    time_d_ff: Annotated[int, Of("time_feed_forward.units")] = Field(ge=1, description="feed-forward units after it")
    sender_heads: Annotated[int, Of("channel_attention.sender.heads")] = Field(
        ge=1, description="of the attention by which routers collect from channels"
    )
    receiver_heads: Annotated[int, Of("channel_attention.receiver.heads")] = Field(
        ge=1, description="of the attention by which channels collect from routers"
    )
    routers: Annotated[int, Of("channel_attention.routers")] = Field(ge=1)
    router_width: Annotated[int, Of("channel_attention.router_width")] = Field(
        ge=1, description="of the routers and of what they pass on"
    )
    channel_d_ff: Annotated[int, Of("channel_feed_forward.units")] = Field(
        ge=1, description="feed-forward units after the second stage"
    )

    @classmethod
    def published(cls, width: int, heads: int, d_ff: int, routers: int) -> dict[str, int]:
        """Returns the values of a layer in which nothing is pruned."""
        of_heads = dict.fromkeys(("time_heads", "sender_heads", "receiver_heads"), heads)
        return {**of_heads, "time_d_ff": d_ff, "channel_d_ff": d_ff, "routers": routers, "router_width": width}


class RouterAttention(Layer):
    """Channels exchange messages through a few learned routers: linear in the number of channels.

    Each segment has its own routers; a router collects from all channels, and each channel from all routers.
    """

    def __init__(self, widths: TwoStageWidths, width: int, segments: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.routers = nn.Parameter(torch.randn(widths.routers, segments, widths.router_width))
        self.sender = Attention(widths.router_width, width, widths.sender_heads, head_size, dropout)
        self.receiver = Attention(width, widths.router_width, widths.receiver_heads, head_size, dropout)

    def forward(self, x_BCSD: Tensor) -> Tensor:
        """Returns (B, C, S, D)."""
        # the routers are the same for the whole batch: their queries are computed once
        messages_BRSW = self.sender(self.routers.unsqueeze(0), x_BCSD, dim=CHANNEL)
        return cast("Tensor", self.receiver(x_BCSD, messages_BRSW, dim=CHANNEL))

    def streams(self) -> Streams:
        """Routers ask channels, channels ask routers, whose width is nobody else's."""
        return {
            "routers": {0: "routers", 2: "router_width"},
            "sender": {"stream": "router_width", "memory": "stream"},
            "receiver": {"memory": "router_width"},
        }

    def units(self) -> dict[str, Units]:
        """The routers, which the receiver looks at, and their width."""
        return {"routers": Units("router", softmax_of="receiver"), "router_width": Units("width")}


class TwoStageLayer(Layer):
    """Attention along time, feed-forward, attention along channels, feed-forward; each added and normalised."""

    def __init__(self, widths: TwoStageWidths, width: int, segments: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.time_attention = Attention(width, width, widths.time_heads, head_size, dropout)
        self.time_feed_forward = FeedForward(width, widths.time_d_ff, "gelu", dropout=0.0)
        self.channel_attention = RouterAttention(widths, width, segments, head_size, dropout)
        self.channel_feed_forward = FeedForward(width, widths.channel_d_ff, "gelu", dropout=0.0)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.dropout = Dropout(dropout)

    def forward(self, x_BCSD: Tensor) -> Tensor:
        """Returns (B, C, S, D)."""
        x_BCSD = add_norm(self.norm1, self.dropout, x_BCSD, self.time_attention(x_BCSD, x_BCSD, dim=TIME))
        x_BCSD = add_norm(self.norm2, self.dropout, x_BCSD, self.time_feed_forward(x_BCSD))
        x_BCSD = add_norm(self.norm3, self.dropout, x_BCSD, self.channel_attention(x_BCSD))
        return add_norm(self.norm4, self.dropout, x_BCSD, self.channel_feed_forward(x_BCSD))

    def streams(self) -> Streams:
        """The stream is its own memory."""
        return {"time_attention": {"memory": "stream"}}
