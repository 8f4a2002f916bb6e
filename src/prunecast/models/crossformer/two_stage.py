"""Two-stage attention: tokens of a channel look at each other, then channels at the same segment exchange messages.

Zhang and Yan 2023, "Crossformer: Transformer Utilizing Cross-Dimension Dependency for Multivariate Time Series
Forecasting", section 3.2.

B batch, C channels, S segments, R routers, D width of the stream, W width of the routers.
"""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from prunecast.kernels import Dropout, add_norm
from prunecast.models.base import Group, Keep, Member
from prunecast.models.layers.attention import Attention
from prunecast.models.layers.feedforward import FeedForward
from prunecast.models.layers.groups import norms, unit_index
from prunecast.models.layers.widths import kept
from prunecast.records import Strict

TIME, CHANNEL = 2, 1
"""Dimensions of a stream (B, C, S, D): along which the steps of the first and of the second stage lie."""


class TwoStageWidths(Strict):
    """Of one two-stage layer; all heads have the config's size."""

    time_heads: int = Field(ge=1, description="of the attention among a channel's segments")
    time_d_ff: int = Field(ge=1, description="feed-forward units after it")
    sender_heads: int = Field(ge=1, description="of the attention by which routers collect from channels")
    receiver_heads: int = Field(ge=1, description="of the attention by which channels collect from routers")
    routers: int = Field(ge=1)
    router_width: int = Field(ge=1, description="of the routers and of what they pass on")
    channel_d_ff: int = Field(ge=1, description="feed-forward units after the second stage")

    @classmethod
    def published(cls, width: int, heads: int, d_ff: int, routers: int) -> dict[str, int]:
        """Returns the values of a layer in which nothing is pruned."""
        of_heads = dict.fromkeys(("time_heads", "sender_heads", "receiver_heads"), heads)
        return {**of_heads, "time_d_ff": d_ff, "channel_d_ff": d_ff, "routers": routers, "router_width": width}

    def two_stages_left(self, keep: Keep, name: str) -> dict[str, int]:
        """Returns the values that `keep` leaves of the layer of a name."""
        groups = {
            "time_heads": "time_attention.heads",
            "time_d_ff": "time_feed_forward.units",
            "sender_heads": "channel_attention.sender.heads",
            "receiver_heads": "channel_attention.receiver.heads",
            "routers": "channel_attention.routers",
            "router_width": "channel_attention.router_width",
            "channel_d_ff": "channel_feed_forward.units",
        }
        return {field: kept(keep, f"{name}.{group}", getattr(self, field)) for field, group in groups.items()}


class RouterAttention(nn.Module):
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

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the heads, the routers, and the width of the routers, which is nobody else's."""
        count, _, width = self.routers.shape
        router = Member(f"{name}.routers", 0, unit_index(count))
        members = (
            Member(f"{name}.routers", 2, unit_index(width)),
            *self.sender.width_members(f"{name}.sender"),
            *self.receiver.memory_members(f"{name}.receiver"),
        )
        return (
            self.sender.head_group(f"{name}.sender"),
            self.receiver.head_group(f"{name}.receiver"),
            Group(f"{name}.routers", "router", count, (router,), softmax_of=f"{name}.receiver"),
            Group(f"{name}.router_width", "width", width, members),
        )

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        return (*self.sender.memory_members(f"{name}.sender"), *self.receiver.width_members(f"{name}.receiver"))


class TwoStageLayer(nn.Module):
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

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        return (
            self.time_attention.head_group(f"{name}.time_attention"),
            self.time_feed_forward.unit_group(f"{name}.time_feed_forward"),
            *self.channel_attention.groups(f"{name}.channel_attention"),
            self.channel_feed_forward.unit_group(f"{name}.channel_feed_forward"),
        )

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        return (
            *self.time_attention.width_members(f"{name}.time_attention"),
            *self.time_attention.memory_members(f"{name}.time_attention"),
            *self.time_feed_forward.width_members(f"{name}.time_feed_forward"),
            *self.channel_attention.width_members(f"{name}.channel_attention"),
            *self.channel_feed_forward.width_members(f"{name}.channel_feed_forward"),
            *norms(*(f"{name}.norm{i}" for i in (1, 2, 3, 4)), size=self.norm1.normalized_shape[0]),
        )
