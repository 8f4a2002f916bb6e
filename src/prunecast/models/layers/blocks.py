"""Parts of Transformers: embedding, multi-head attention, feed-forward layer, layers of an encoder and of a decoder.

Vaswani et al. 2017, "Attention Is All You Need", section 3; values and calendar features are embedded as in
Time-Series-Library. Each sublayer is added to its stream, which is normalised afterwards. A layer takes its stream
first and returns it, so a layer that is removed is one that passes its first argument on.

B batch, L time steps, C channels, F calendar features and known covariates, Q queries, S and L memory steps, T decoder
steps, H heads, D width of the encoder's stream, E width of the decoder's. Steps may lie along another dimension than 1:
what is said of (B, Q, D) holds for (B, C, Q, D) too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Self, cast

import torch
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
    linear,
)
from prunecast.models.base import Layer, LinearMap, Streams, Units, reads, unit_index, writes
from prunecast.models.layers.widths import Activation, EncoderConfig, EncoderDecoderConfig


class DataEmbedding(Layer):
    """Token convolution + calendar features + fixed position table, where there is one.

    The table is stored, since pruning keeps some of its columns.
    """

    position: Tensor | None

    def __init__(
        self, channels: int, marks: int, length: int, width: int, *, position: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        self.value = TokenConvolution(channels, width, bias=bias)
        self.calendar = nn.Linear(marks, width, bias=bias) if marks else None
        self.register_buffer("position", sinusoids(length, width) if position else None)

    def forward(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        """Returns tokens (B, L, D)."""
        features, weights = neighbours(x_BLC), kernel_matrix(self.value.weight)
        bias: Tensor | None = self.value.bias
        if self.calendar is not None and mark_BLF is not None:  # one product over both kinds of features
            features = torch.cat([features, mark_BLF], dim=2)
            weights = torch.cat([weights, self.calendar.weight], dim=1)
            bias = bias if bias is None else bias + self.calendar.bias
        x_BLD = linear(features, weights, bias, training=self.training)
        return x_BLD if self.position is None else x_BLD + self.position

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the one map of values and calendar; positions and the calendar's bias are added to its result."""
        names = ("value.weight",) if self.calendar is None else ("value.weight", "calendar.weight")
        of_values = 3 * self.value.weight.shape[1]

        def features(x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
            parts = [neighbours(x_BLC)] if mark_BLF is None else [neighbours(x_BLC), mark_BLF]
            return torch.cat(parts, dim=2).flatten(0, 1).unsqueeze(0)

        def matrix(tensors: Mapping[str, Tensor]) -> Tensor:
            kernel, *calendar = (tensors[name] for name in names)
            return torch.cat([kernel_matrix(kernel), *calendar], dim=1).unsqueeze(0)

        def tensors(matrix_1OI: Tensor) -> dict[str, Tensor]:
            kernel, calendar = matrix_1OI[0].tensor_split([of_values], dim=1)
            return dict(zip(names, (as_kernel(kernel), calendar), strict=False))

        bias = None if self.value.bias is None else "value.bias"
        return {"": LinearMap(parameters=names, bias=bias, features=features, matrix=matrix, tensors=tensors)}

    def streams(self) -> Streams:
        """All three write the stream."""
        return {"value": writes("stream"), "calendar": writes("stream"), "position": {1: "stream"}}


class TokenConvolution(Layer):
    """Convolution over three neighbouring steps, circular at the ends: `neighbours` times `kernel_matrix`.

    Written as a product with shifted copies: every runtime has cat and slice, not every one a circular pad.
    """

    prunable_weights = ("weight",)

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="leaky_relu")
        limit = (3 * channels) ** -0.5
        self.bias = nn.Parameter(torch.empty(width).uniform_(-limit, limit)) if bias else None

    def streams(self) -> Streams:
        """Its outputs are rows, its inputs columns."""
        return {"weight": {0: "outputs", 1: "inputs"}, "bias": {0: "outputs"}}


def neighbours(x_BLC: Tensor) -> Tensor:
    """Returns each step between the one before it and the one after it, on a ring, (B, L, 3C)."""
    ring_BSC = torch.cat([x_BLC[:, -1:], x_BLC, x_BLC[:, :1]], dim=1)
    return torch.cat([ring_BSC[:, :-2], x_BLC, ring_BSC[:, 2:]], dim=2)


def kernel_matrix(kernel_DC3: Tensor) -> Tensor:
    """Returns the kernel of a convolution over three steps as (D, 3C), in the order of `neighbours`."""
    return kernel_DC3.transpose(1, 2).flatten(1)


def as_kernel(matrix_DN: Tensor) -> Tensor:
    """Returns the kernel (D, C, 3) of the matrix that `kernel_matrix` gives."""
    return torch.unflatten(matrix_DN, 1, (3, -1)).transpose(1, 2)


def sinusoids(length: int, width: int) -> Tensor:
    """Returns the fixed position table (length, width) of "Attention Is All You Need", section 3.5.

    Computed in float32 whatever the default, as the published models do.
    """
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width].clone()


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


class Encoder(Layer):
    """Embeds the look-back and refines it layer by layer."""

    def __init__(
        self, config: EncoderDecoderConfig, layers: Iterable[Layer], norm: nn.Module, *, position: bool = True
    ) -> None:
        super().__init__()
        width = config.encoder_widths.width
        self.embedding = DataEmbedding(config.channels, config.marks, config.lookback, width, position=position)
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        """Returns the memory (B, L, D) that the decoder looks at."""
        x_BLD = self.dropout(self.embedding(x_BLC, mark_BLF))
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        return cast("Tensor", self.norm(x_BLD))


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
