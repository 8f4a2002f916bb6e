"""From values and calendar features to a stream of tokens, as Time-Series-Library embeds them.

B batch, L time steps, C channels, F calendar features and known covariates, D width of the stream.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import linear
from prunecast.models.base import Layer, Streams, writes


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
        features, weights = self.value.unfold(x_BLC), self.value.matrix()
        bias: Tensor | None = self.value.bias
        if self.calendar is not None and mark_BLF is not None:  # one product over both kinds of features
            features = torch.cat([features, mark_BLF], dim=2)
            weights = torch.cat([weights, self.calendar.weight], dim=1)
            bias = bias if bias is None else bias + self.calendar.bias
        x_BLD = linear(features, weights, bias, training=self.training)
        return x_BLD if self.position is None else x_BLD + self.position

    def streams(self) -> Streams:
        """All three write the stream."""
        return {"value": writes("stream"), "calendar": writes("stream"), "position": {1: "stream"}}


class TokenConvolution(Layer):
    """Convolution over three neighbouring steps, circular at the ends.

    Written as a product with shifted copies: every runtime has cat and slice, not every one a circular pad.
    """

    prunable_weights = ("weight",)

    def __init__(self, channels: int, width: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, 3))
        nn.init.kaiming_normal_(self.weight, nonlinearity="leaky_relu")
        limit = (3 * channels) ** -0.5
        self.bias = nn.Parameter(torch.empty(width).uniform_(-limit, limit)) if bias else None

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        return F.linear(self.unfold(x_BLC), self.matrix(), self.bias)

    def unfold(self, x_BLC: Tensor) -> Tensor:
        """Returns each step beside its neighbours, (B, L, 3C)."""
        ring = torch.cat([x_BLC[:, -1:], x_BLC, x_BLC[:, :1]], dim=1)
        return torch.cat([ring[:, :-2], x_BLC, ring[:, 2:]], dim=2)

    def matrix(self) -> Tensor:
        """Returns the kernel as (D, 3C), in the order of `unfold`."""
        return self.weight.transpose(1, 2).flatten(1)

    def streams(self) -> Streams:
        """Its outputs are rows, its inputs columns."""
        return {"weight": {0: "outputs", 1: "inputs"}, "bias": {0: "outputs"}}


def sinusoids(length: int, width: int) -> Tensor:
    """Returns the fixed position table (length, width) of "Attention Is All You Need", section 3.5.

    Computed in float32 whatever the default, as the published models do.
    """
    position = torch.arange(length, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10000.0) / width))
    angle = position * rate
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)[:, :width].clone()
