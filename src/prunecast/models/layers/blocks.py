"""Layers of an encoder and of a decoder, each sublayer added to its stream, which is normalised afterwards.

Vaswani et al. 2017, section 3.1. A layer takes its stream first and returns it, so a layer that is removed is one
that passes its first argument on.

B batch, L memory steps, T decoder steps, D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from prunecast.kernels import Dropout, add_norm
from prunecast.models.base import Group, Member
from prunecast.models.layers.attention import Attention
from prunecast.models.layers.feedforward import FeedForward
from prunecast.models.layers.groups import norms
from prunecast.models.layers.widths import EncoderConfig


class EncoderLayer(nn.Module):
    """Self-attention, feed-forward."""

    def __init__(self, config: EncoderConfig, attention: Attention, d_ff: int) -> None:
        super().__init__()
        width = attention.query.in_features
        self.attention = attention
        self.feed_forward = FeedForward(width, d_ff, config.activation, config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLD: Tensor, steps: int | None = None) -> Tensor:
        """Returns (B, L, D), or only its first `steps` steps; no work is done for those after them."""
        first_BSD = x_BLD if steps is None else x_BLD[:, :steps]
        first_BSD = add_norm(self.norm1, self.dropout, first_BSD, self.attention(first_BSD, x_BLD))
        return add_norm(self.norm2, self.dropout, first_BSD, self.feed_forward(first_BSD))

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        heads = self.attention.head_group(f"{name}.attention")
        return (heads, self.feed_forward.unit_group(f"{name}.feed_forward"))

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return (
            *self.attention.width_members(f"{name}.attention"),
            *self.attention.memory_members(f"{name}.attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
            *norms(f"{name}.norm1", f"{name}.norm2", size=self.norm1.normalized_shape[0]),
        )


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, feed-forward."""

    def __init__(self, config: EncoderConfig, self_attention: Attention, cross_attention: Attention, d_ff: int) -> None:
        super().__init__()
        width = self_attention.query.in_features
        self.self_attention, self.cross_attention = self_attention, cross_attention
        self.feed_forward = FeedForward(width, d_ff, config.activation, config.dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTE: Tensor, memory_BLD: Tensor, steps: int) -> Tensor:
        """Returns the last `steps` steps, (B, steps, E); no work is done for those before."""
        last_BSE = last(x_BTE, steps)
        last_BSE = add_norm(self.norm1, self.dropout, last_BSE, self.self_attention(last_BSE, x_BTE, causal=True))
        last_BSE = add_norm(self.norm2, self.dropout, last_BSE, self.cross_attention(last_BSE, memory_BLD))
        return add_norm(self.norm3, self.dropout, last_BSE, self.feed_forward(last_BSE))

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        return (
            self.self_attention.head_group(f"{name}.self_attention"),
            self.cross_attention.head_group(f"{name}.cross_attention"),
            self.feed_forward.unit_group(f"{name}.feed_forward"),
        )

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the decoder's stream owns here."""
        return (
            *self.self_attention.width_members(f"{name}.self_attention"),
            *self.self_attention.memory_members(f"{name}.self_attention"),
            *self.cross_attention.width_members(f"{name}.cross_attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
            *norms(*(f"{name}.norm{i}" for i in (1, 2, 3)), size=self.norm1.normalized_shape[0]),
        )

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return self.cross_attention.memory_members(f"{name}.cross_attention")


def last(x: Tensor, count: int) -> Tensor:
    """Returns the last entries along dimension 1; all of them as they are, since the gradient of a slice is a copy."""
    return x if count == x.shape[1] else x[:, x.shape[1] - count :]


def named(layers: nn.ModuleList, stack: str) -> Iterator[tuple[str, Any]]:
    """Yields each layer of a stack with its full name."""
    return ((f"{stack}.{i}", layer) for i, layer in enumerate(layers))
