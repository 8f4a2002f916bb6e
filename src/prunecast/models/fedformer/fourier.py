"""Attention in the frequency domain: a few Fourier modes of a stream, each mixed by complex matrices of its own.

Zhou et al. 2022, "FEDformer: Frequency Enhanced Decomposed Transformer for Long-term Series Forecasting",
sections 3.2 and 3.3. Complex numbers are pairs of real ones, so every runtime can compute them.

The published code has peculiarities that its weights depend on; they are kept:
- what comes out is laid out (head, channel, step) and read as (step, width) by the projection that follows. A head or
  a channel that was removed leaves zeros in that layout, and the projection keeps its inputs;
- self-attention writes the k-th mode that it reads to bin k of the result, whatever its own bin is;
- one block serves all layers of a stack, which have only their projections for themselves.

B batch, Q steps of the stream, S memory steps, D width of the stream that is read, N width of the dense layout,
M modes, Y modes of the memory, H heads, I channels of a head that are read, O channels of a head that are written,
P = 2 real and imaginary part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from prunecast.kernels import Linear, over_time, times_each, to_series
from prunecast.models.base import Layer, Streams, Units, reads, unit_index, writes
from prunecast.models.layers.transforms import FourierTransform, ModeSelect, chosen_modes


@dataclass(frozen=True)
class BlockSizes:
    """What a block is made of.

    Attributes:
        heads: H.
        inputs: I.
        outputs: O.
        modes: M.
        dense_heads: heads of the layout that is written.
        dense_channels: channels of each head in that layout.
        d_model: dense width of the model; the published scales are made of it.
        steps: Q.
        length: that modes are drawn for; a decoder's is look-back / 2 + horizon, whatever its steps are.
        select: how modes are chosen when the block is built.
    """

    heads: int
    inputs: int
    outputs: int
    modes: int
    dense_heads: int
    dense_channels: int
    d_model: int
    steps: int
    length: int
    select: ModeSelect

    @property
    def named_bins(self) -> int:
        """How many bins may be named: the series' own, those that may be drawn, one for each mode."""
        return max(self.steps // 2 + 1, self.length // 2, self.modes)

    @property
    def layout(self) -> int:
        """N."""
        return self.dense_heads * self.dense_channels


class FourierWeights(Layer):
    """A complex matrix for each mode and head, and the places of what it writes in the dense layout."""

    prunable_weights = ("weight",)
    unread: ClassVar[tuple[str, ...]]
    """Projections of the published layers that never reach the result."""

    index: Tensor
    places: Tensor

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.sizes = sizes
        # what a channel is made of lies together: the real parts of all that it reads, then the imaginary parts
        shape = sizes.modes, sizes.heads, sizes.outputs, 2, sizes.inputs
        self.weight = nn.Parameter(torch.rand(shape) / sizes.d_model**2)
        self.register_buffer("index", chosen_modes(sizes.length, sizes.modes, sizes.select))
        heads, channels = torch.arange(sizes.heads), torch.arange(sizes.outputs)
        self.register_buffer("places", heads.unsqueeze(1) * sizes.dense_channels + channels)

    def mix(self, real_MHBI: Tensor, imaginary_MHBI: Tensor) -> Tensor:
        """Returns (B, 2M, H * O): every mode of every head times its complex matrix."""
        y_MHRO = times_each(_turned(real_MHBI, imaginary_MHBI), self.weight.flatten(3))
        y_BPMHO = torch.unflatten(y_MHRO, 2, (-1, 2)).permute(2, 3, 0, 1, 4)
        return y_BPMHO.flatten(1, 2).flatten(2)

    def place(self, y_BCQ: Tensor) -> Tensor:
        """Returns (B, N, Q): the series of the channels that are left (C = H * O) in the dense layout."""
        channels, layout = y_BCQ.shape[1], self.sizes.layout
        if channels == layout:
            return y_BCQ
        device = self.places.device
        source_N = torch.full((layout + 1,), channels, device=device)  # the one too many is for a place of -1
        source_N[self.places.flatten()] = torch.arange(channels, device=device)
        with_zeros = torch.cat([y_BCQ, torch.zeros_like(y_BCQ[:, :1])], dim=1)
        return with_zeros.index_select(1, source_N[:layout])

    def streams(self) -> Streams:
        """Modes, heads and channels of the weight; which modes and places of the dense layout are theirs."""
        return {
            "weight": {0: "modes", 1: "heads", 2: "outputs", 4: "inputs"},
            "places": {0: "heads", 1: "outputs"},
            "index": {0: "modes"},
        }

    def units(self) -> dict[str, Units]:
        """Heads, channels that are read and written, modes; of all layers that share the block."""
        width = Units("width")
        return {"heads": Units("head"), "inputs": width, "outputs": width, "modes": Units("mode")}


class FourierBlock(FourierWeights):
    """The frequency enhanced block: modes of a stream, mixed (section 3.2)."""

    unread = ("key", "value")
    bins: Tensor

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__(sizes)
        self.register_buffer("bins", torch.arange(sizes.modes))
        self.transform = FourierTransform(sizes.steps, sizes.named_bins)

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> Tensor:
        """Returns (B, N, Q); the memory and `key` have no part in it."""
        parts = _projected(self.transform.forth(self.index), x_BQD, query, self.sizes.heads)
        y_BRC = self.mix(*(part_BMHI.permute(1, 2, 0, 3) for part_BMHI in parts))
        return self.place(to_series(y_BRC, self.transform.back(self.bins)))

    def streams(self) -> Streams:
        """The bins that the modes are written to are theirs too."""
        return {**super().streams(), "bins": {0: "modes"}}


class FourierCrossBlock(FourierWeights):
    """Frequency enhanced attention: modes of a stream look at modes of the memory, and what they find is mixed.

    Section 3.3, with the tanh of the published runs in the place of a softmax.
    """

    unread = ("value",)
    key_index: Tensor

    def __init__(self, sizes: BlockSizes, memory_steps: int, key_modes: int, *, complex_tanh: bool) -> None:
        super().__init__(sizes)
        self.register_buffer("key_index", chosen_modes(memory_steps, key_modes, sizes.select))
        self.transform = FourierTransform(sizes.steps, sizes.named_bins, gain=1 / sizes.d_model**2)
        self.key_transform = FourierTransform(memory_steps, memory_steps // 2 + 1)
        self.tanh = _complex_tanh if complex_tanh else _tanh_of_parts

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> Tensor:
        """Returns (B, N, Q)."""
        heads = self.sizes.heads
        query_parts = _projected(self.transform.forth(self.index), x_BQD, query, heads)
        key_parts = _projected(self.key_transform.forth(self.key_index), memory_BSD, key, heads)
        q_BHRE = _turned(*(part_BMHI.transpose(1, 2) for part_BMHI in query_parts))
        k_BHYE = torch.cat([part_BYHI.transpose(1, 2) for part_BYHI in key_parts], dim=3)
        found_BHRE = self.tanh(q_BHRE @ k_BHYE.mT) @ k_BHYE
        # which part of a weight times which part of the memory: real real, real imaginary, imaginary real, the last
        found_BHM4I = torch.unflatten(torch.unflatten(found_BHRE, 3, (2, -1)), 2, (-1, 2)).flatten(3, 4)
        rr, ri, ir, ii = found_BHM4I.permute(3, 2, 1, 0, 4)
        y_BRC = self.mix(rr - ii, ri + ir)
        return self.place(to_series(y_BRC, self.transform.back(self.index)))

    def streams(self) -> Streams:
        """The memory's modes own no weight."""
        return {**super().streams(), "key_index": {0: "key_modes"}}

    def units(self) -> dict[str, Units]:
        """The memory's modes beside the others."""
        return {**super().units(), "key_modes": Units("mode")}


def _projected(matrix_RQ: Tensor, x_BQD: Tensor, layer: Linear, heads: int) -> tuple[Tensor, Tensor]:
    """Returns both parts (B, M, H, I) of the transform of the projected stream: the projection of its transform.

    A bias stands still, so it has a real part in bin 0 and nothing else: the sum of that row.
    """
    y_BRHI = torch.unflatten(layer.without_bias(over_time(matrix_RQ, x_BQD)), 2, (heads, -1))
    real_BMHI, imaginary_BMHI = y_BRHI.chunk(2, dim=1)
    level_M11 = matrix_RQ.chunk(2)[0].sum(1).view(-1, 1, 1)
    return real_BMHI + level_M11 * layer.bias.view(heads, -1), imaginary_BMHI


def _turned(real: Tensor, imaginary: Tensor) -> Tensor:
    """Returns (..., 2K, 2I) of complex numbers (..., K, I): times real above imaginary parts, their complex products.

    Each number a + bi has two rows, of its product's real part (a, -b) and of its imaginary part (b, a).
    """
    rows = torch.stack([real, -imaginary, imaginary, real], dim=-2)
    return torch.unflatten(rows, -2, (2, 2)).flatten(-2).flatten(-3, -2)


def _tanh_of_parts(numbers_BHRY: Tensor) -> Tensor:
    """Returns the tanh of both parts, as Time-Series-Library takes it."""
    return numbers_BHRY.tanh()


def _complex_tanh(numbers_BHRY: Tensor) -> Tensor:
    """Returns the tanh of complex numbers, as the original takes it; no large number overflows here."""
    real, imaginary = torch.unflatten(numbers_BHRY, 2, (-1, 2)).unbind(3)
    tanh, sine, cosine = real.tanh(), imaginary.sin(), imaginary.cos()
    scale = cosine.square() + (tanh * sine).square()
    return torch.stack([tanh / scale, sine * cosine * (1 - tanh.square()) / scale], dim=3).flatten(2, 3)


class FourierAttention(Layer):
    """What a layer has for itself: projections to and from a block that it shares with the other layers."""

    def __init__(
        self, width: int, memory_width: int, block: FourierBlock | FourierCrossBlock, block_name: str = "block"
    ) -> None:
        """Builds the projections.

        Args:
            width: of the stream.
            memory_width: of the memory's stream.
            block: which other layers have too.
            block_name: in the model, which owns it; groups are named after it.
        """
        super().__init__()
        sizes = block.sizes
        self.query = Linear(width, sizes.heads * sizes.inputs)
        self.key = Linear(memory_width, sizes.heads * sizes.inputs)
        self.value = Linear(memory_width, sizes.heads * sizes.inputs)
        self.out = Linear(sizes.layout, width)
        self.block_name, self._shared = block_name, (block,)  # in a tuple, so that the block stays the model's own

    @property
    def block(self) -> FourierBlock | FourierCrossBlock:
        """What it shares with the other layers of its stack."""
        return self._shared[0]

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor) -> Tensor:
        """Returns (B, Q, D)."""
        y_BNQ = self.block(x_BQD, memory_BSD, self.query, self.key)
        return cast("Tensor", self.out(y_BNQ.reshape(*x_BQD.shape[:2], -1)))

    def streams(self) -> Streams:
        """The projections write what the block reads, feature by feature of each head."""
        rows_HI = unit_index(self.block.sizes.heads, self.block.sizes.inputs)
        written = [(f"{self.block_name}.heads", rows_HI), (f"{self.block_name}.inputs", rows_HI.T)]
        return {
            "query": reads("stream") | writes(written),
            "key": reads("memory") | writes(written),
            "value": reads("memory") | writes(written),
            "out": writes("stream"),
        }

    def unused(self) -> tuple[str, ...]:
        """The published projections that the block does not read."""
        return tuple(f"{part}.{kind}" for part in self.block.unread for kind in ("weight", "bias"))
