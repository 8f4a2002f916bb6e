"""Multi-head attention, the feed-forward layer, and the layers of an encoder and a decoder that are made of them.

Vaswani et al. 2017, "Attention Is All You Need", section 3. Each sublayer is added to its stream, which is normalised
afterwards. A layer takes its stream first and returns it, so a layer that is removed is one that passes its first
argument on.

B batch, Q queries, S and L memory steps, T decoder steps, H heads, D width of the encoder's stream, E width of the
decoder's. Steps may lie along another dimension than 1: what is said of (B, Q, D) holds for (B, C, Q, D) too.
"""

from __future__ import annotations

from typing import Literal, Self, cast

from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import (
    Dropout,
    Linear,
    add_norm,
    attend,
    causal_bias,
    feed_forward,
    fused_attention,
    fuses_attention,
)
from prunecast.models.base import Layer, Streams, Units, reads, unit_index, writes
from prunecast.models.layers.widths import EncoderConfig

Activation = Literal["gelu", "relu"]


class Projections(Layer):
    """What every attention has: maps from a stream and its memory to heads, and from the heads to the stream."""

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.query = Linear(width, heads * head_size)
        self.key = Linear(memory_width, heads * head_size)
        self.value = Linear(memory_width, heads * head_size)
        self.out = Linear(heads * head_size, width)

    def streams(self) -> Streams:
        """Queries read the stream, keys and values the memory; all write heads, from which the output is written."""
        heads = ("heads", unit_index(self.heads, self.head_size))
        return {
            "query": reads("stream") | writes(heads),
            "key": reads("memory") | writes(heads),
            "value": reads("memory") | writes(heads),
            "out": reads(heads) | writes("stream"),
        }

    def units(self) -> dict[str, Units]:
        """The heads."""
        return {"heads": Units("head")}


class Attention(Projections):
    """Scaled dot-product attention of one stream to another (or to itself), dropout on the attention weights.

    The scale is 1 / sqrt(head size), whatever pruning leaves of the heads.
    """

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int, dropout: float) -> None:
        super().__init__(width, memory_width, heads, head_size)
        self.dropout = Dropout(dropout)

    @classmethod
    def of(cls, config: EncoderConfig, width: int, heads: int, memory_width: int | None = None) -> Self:
        """Returns the attention of a stream to a memory, or to itself, with the config's head size and dropout."""
        return cls(width, memory_width or width, heads, config.size_per_head, config.dropout)

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, causal: bool = False, dim: int = 1) -> Tensor:
        """Returns (B, Q, width).

        Args:
            x_BQD: what asks.
            memory_BSD: what is looked at.
            causal: x are the last Q steps of the memory, and none sees a later one.
            dim: along which the steps lie. All dimensions but it and the last are a batch; where x has one entry and
                the memory many (or the other way round), it is repeated, without being computed again.
        """
        projections, scale = (self.query, self.key, self.value, self.out), self.head_size**-0.5
        if fuses_attention(x_BQD, memory_BSD, *projections, training=self.training):
            (weight, bias), *others = ((layer.weight, layer.bias) for layer in projections)
            maps = ((weight * scale, bias * scale), *others)
            return fused_attention(
                x_BQD, memory_BSD, maps, self.heads, self.dropout, causal=causal, training=self.training
            )
        q, k, v = self.query(x_BQD) * scale, self.key(memory_BSD), self.value(memory_BSD)
        bias_QS = causal_bias(q, k, dim) if causal else None
        q, k, v = (x.view(*x.shape[:-1], self.heads, -1) for x in (q, k, v))
        mixed_BQHE = attend(q, k, v, bias_QS, self.dropout, dim=dim, training=self.training)
        return cast("Tensor", self.out(mixed_BQHE.flatten(-2)))


class FeedForward(Layer):
    """Linear, activation, dropout, linear: what the published models write as convolutions of width one."""

    def __init__(self, width: int, hidden: int, activation: Activation, dropout: float, *, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(width, hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)
        self.dropout = Dropout(dropout)
        self.activation = F.gelu if activation == "gelu" else F.relu

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns down(dropout(activation(up(x)))), (B, L, D)."""
        return feed_forward(self.up, self.activation, self.dropout, self.down, x_BLD)

    def streams(self) -> Streams:
        """From the stream to hidden units and back."""
        return {"up": reads("stream") | writes("units"), "down": reads("units") | writes("stream")}

    def units(self) -> dict[str, Units]:
        """The hidden units."""
        return {"units": Units("ffn")}


class EncoderLayer(Layer):
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

    def streams(self) -> Streams:
        """The stream is its own memory."""
        return {"attention": {"memory": "stream"}}


class DecoderLayer(Layer):
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

    def streams(self) -> Streams:
        """The stream is its own memory in self-attention; cross attention's memory is the encoder's stream."""
        return {"self_attention": {"memory": "stream"}}


def last(x: Tensor, count: int) -> Tensor:
    """Returns the last entries along dimension 1; all of them as they are, since the gradient of a slice is a copy."""
    return x if count == x.shape[1] else x[:, x.shape[1] - count :]
