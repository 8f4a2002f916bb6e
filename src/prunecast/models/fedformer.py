"""FEDformer with Fourier blocks: season and trend apart, the season mixed in the frequency domain.

Zhou et al. 2022, "FEDformer: Frequency Enhanced Decomposed Transformer for Long-term Series Forecasting"; numerically
equal to Time-Series-Library's `FEDformer`, and by configuration to the original (no position table, the tanh of
complex numbers, a learned mixture of moving averages).

A few Fourier modes of a stream are each mixed by complex matrices of their own (sections 3.2 and 3.3). Complex numbers
are pairs of real ones, so every runtime can compute them. The published code has peculiarities that its weights depend
on; they are kept:
- what comes out is laid out (head, channel, step) and read as (step, width) by the projection that follows. A head or
  a channel that was removed leaves zeros in that layout, and the projection keeps its inputs;
- self-attention writes the k-th mode that it reads to bin k of the result, whatever its own bin is;
- one block serves all layers of a stack, which have only their projections for themselves.

B batch, Q steps of the stream, S memory steps, D width of the stream that is read, N width of the dense layout,
M modes, Y modes of the memory, H heads, I channels of a head that are read, O channels of a head that are written,
P = 2 real and imaginary part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunecast.kernels import Linear, over_time, times_each, to_series
from prunecast.models.base import Keep, Layer, LinearMap, Streams, Units, reads, unit_index, writes
from prunecast.models.layers.decomposition import (
    DecompositionConfig,
    DecompositionDecoderLayer,
    DecompositionEncoderLayer,
    DecompositionModel,
)
from prunecast.models.layers.transforms import FourierTransform
from prunecast.models.layers.widths import Of, Widths

ModeSelect = Literal["random", "low"]


class BlockWidths(Widths):
    """Of one Fourier block: channels of each head that are read and written, and modes. Heads stand at the layers."""

    inputs: Annotated[int, Of("inputs")] = Field(ge=1)
    outputs: Annotated[int, Of("outputs")] = Field(ge=1)
    modes: Annotated[int, Of("modes")] = Field(ge=1)


class CrossBlockWidths(BlockWidths):
    """Of the block that looks at the encoder, which also keeps modes of what the encoder gives."""

    key_modes: Annotated[int, Of("key_modes")] = Field(ge=1)


class FourierWidths(Widths):
    """Of the three Fourier blocks; each serves all layers of its stack."""

    encoder: BlockWidths
    decoder: BlockWidths
    cross: CrossBlockWidths


class FEDformerConfig(DecompositionConfig):
    """Defaults are those of the published run at paper size, as Time-Series-Library computes it."""

    name: Literal["fedformer"] = "fedformer"
    lookback: int = Field(96, ge=2)
    modes: int = Field(64, ge=1, description="Fourier modes of each block, at most half of its steps")
    mode_select: ModeSelect = Field("random", description="which modes a new model keeps: random ones or the lowest")
    position_embedding: bool = Field(True, description="add a position table to the tokens; the original does not")
    complex_tanh: bool = Field(
        False, description="cross attention: tanh of the complex number, as the original; else of its parts"
    )
    fourier: FourierWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        encoder, decoder = self.encoder_widths.layers, self.decoder_widths.layers
        shared = {
            "encoder heads": {layer.heads for layer in encoder},
            "decoder heads": {layer.heads for layer in decoder},
            "decoder cross_heads": {layer.cross_heads for layer in decoder},
        }
        for what, found in shared.items():
            if len(found) > 1:
                raise ValueError(f"{what}: expected the same in all layers, which share a block, found {sorted(found)}")
            if max(found) > self.n_heads:
                raise ValueError(f"{what}: expected at most n_heads ({self.n_heads}), found {max(found)}")
        for block, widths in self.fourier_widths:
            for unit, size in widths:
                most = getattr(getattr(self.dense_fourier, block), unit)
                if size > most:
                    raise ValueError(f"fourier.{block}.{unit}: expected at most {most}, found {size}")
        return self

    @property
    def decoder_length(self) -> int:
        """Steps that the published decoder draws its modes for, whatever `label_len` is."""
        return self.lookback // 2 + self.horizon

    @property
    def dense_fourier(self) -> FourierWidths:
        """Widths of the Fourier blocks before any pruning."""
        size, memory = self.size_per_head, min(self.modes, self.lookback // 2)
        steps = min(self.modes, self.decoder_length // 2)
        return FourierWidths(
            encoder=BlockWidths(inputs=size, outputs=size, modes=memory),
            decoder=BlockWidths(inputs=size, outputs=size, modes=steps),
            cross=CrossBlockWidths(inputs=size, outputs=size, modes=steps, key_modes=memory),
        )

    @property
    def fourier_widths(self) -> FourierWidths:
        """Widths of the Fourier blocks, given or derived."""
        return self.fourier or self.dense_fourier

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; the heads of a block are those of all its layers."""
        layers = {
            "encoder": [f"encoder.layers.{i}.attention" for i in range(self.encoder_layers)],
            "decoder": [f"decoder.layers.{i}.self_attention" for i in range(self.decoder_layers)],
            "cross": [f"decoder.layers.{i}.cross_attention" for i in range(self.decoder_layers)],
        }
        shared = {block: keep[f"fourier.{block}.heads"] for block in layers if f"fourier.{block}.heads" in keep}
        heads = {f"{layer}.heads": units for block, units in shared.items() for layer in layers[block]}
        fourier = self.fourier_widths.left(keep, "fourier")
        return super().shrunk({**keep, **heads}).model_copy(update={"fourier": fourier})


def chosen_modes(length: int, modes: int, select: ModeSelect) -> Tensor:
    """Returns `modes` of the bins below length / 2 in ascending order: drawn by torch's generator, or the lowest."""
    if select == "low":
        return torch.arange(modes)
    return torch.randperm(length // 2)[:modes].sort().values


class FourierWeights(Layer):
    """A complex matrix for each mode and head, and the places of what it writes in the dense layout."""

    prunable_weights = ("weight",)
    unread: ClassVar[tuple[str, ...]]
    """Projections of the published layers that never reach the result."""

    index: Tensor
    places: Tensor

    def __init__(self, config: FEDformerConfig, widths: BlockWidths, heads: int, steps: int, length: int) -> None:
        """Draws weights and modes.

        Args:
            config: of the model, whose dense heads and channels make the layout that is written.
            widths: of the block.
            heads: H.
            steps: Q.
            length: that modes are drawn for; a decoder's is look-back / 2 + horizon, whatever its steps are.
        """
        super().__init__()
        self.heads, self.inputs = heads, widths.inputs
        self.layout = config.n_heads * config.size_per_head
        # bins that may be named: the series' own, those that may be drawn, one for each mode
        self.named_bins = max(steps // 2 + 1, length // 2, widths.modes)
        # what a channel is made of lies together: the real parts of all that it reads, then the imaginary parts
        shape = widths.modes, heads, widths.outputs, 2, widths.inputs
        self.weight = nn.Parameter(torch.rand(shape) / config.d_model**2)
        self.register_buffer("index", chosen_modes(length, widths.modes, config.mode_select))
        places = torch.arange(heads).unsqueeze(1) * config.size_per_head + torch.arange(widths.outputs)
        self.register_buffer("places", places)

    def parts(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> tuple[Tensor, Tensor]:
        """Returns what is mixed, real and imaginary parts (M, H, B, I)."""
        raise NotImplementedError

    def synthesis(self) -> Tensor:
        """Returns (2M, Q): the series that the real and imaginary parts of the modes stand for."""
        raise NotImplementedError

    def added_by_units(self, *read: Any) -> dict[str, Iterator[Tensor]]:
        """Returns what each unit adds to the result, (B, N, Q) each, for the kinds of units that add up: the modes."""
        y_BRC, rows_RQ, modes = self.mix(*self.parts(*read)), self.synthesis(), len(self.index)
        pairs = (torch.tensor([mode, modes + mode]) for mode in range(modes))
        return {"modes": (self.place(to_series(y_BRC[:, pair], rows_RQ[pair])) for pair in pairs)}

    def mix(self, real_MHBI: Tensor, imaginary_MHBI: Tensor) -> Tensor:
        """Returns (B, 2M, H * O): every mode of every head times its complex matrix."""
        y_MHRO = times_each(_turned(real_MHBI, imaginary_MHBI), self.weight.flatten(3))
        y_BPMHO = torch.unflatten(y_MHRO, 2, (-1, 2)).permute(2, 3, 0, 1, 4)
        return y_BPMHO.flatten(1, 2).flatten(2)

    def place(self, y_BCQ: Tensor) -> Tensor:
        """Returns (B, N, Q): the series of the channels that are left (C = H * O) in the dense layout."""
        channels, layout = y_BCQ.shape[1], self.layout
        if channels == layout:
            return y_BCQ
        device = self.places.device
        source_N = torch.full((layout + 1,), channels, device=device)  # the one too many is for a place of -1
        source_N[self.places.flatten()] = torch.arange(channels, device=device)
        with_zeros = torch.cat([y_BCQ, torch.zeros_like(y_BCQ[:, :1])], dim=1)
        return with_zeros.index_select(1, source_N[:layout])

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the maps of all modes and heads side by side: of real numbers, a real and an imaginary row each."""
        modes, heads = self.weight.shape[:2]
        return {
            "": LinearMap(
                parameters=("weight",),
                bias=None,
                features=lambda *read: _turned(*self.parts(*read)).flatten(0, 1),
                matrix=lambda tensors: tensors["weight"].flatten(3).flatten(0, 1),
                tensors=lambda matrix_GOI: {
                    "weight": torch.unflatten(torch.unflatten(matrix_GOI, 0, (modes, heads)), 3, (2, -1))
                },
            )
        }

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
        return {"heads": Units("head"), "inputs": width, "outputs": width, "modes": Units("mode", gate=("weight",))}


class FourierBlock(FourierWeights):
    """The frequency enhanced block: modes of a stream, mixed (section 3.2)."""

    unread = ("key", "value")
    bins: Tensor

    def __init__(self, config: FEDformerConfig, widths: BlockWidths, heads: int, steps: int, length: int) -> None:
        super().__init__(config, widths, heads, steps, length)
        self.register_buffer("bins", torch.arange(widths.modes))
        self.transform = FourierTransform(steps, self.named_bins)

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> Tensor:
        """Returns (B, N, Q); the memory and `key` have no part in it."""
        y_BRC = self.mix(*self.parts(x_BQD, memory_BSD, query, key))
        return self.place(to_series(y_BRC, self.synthesis()))

    def synthesis(self) -> Tensor:
        """Returns the series of the bins that the modes are written to."""
        return self.transform.back(self.bins)

    def parts(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> tuple[Tensor, Tensor]:
        """Returns the modes of the projected stream."""
        real_BMHI, imaginary_BMHI = _projected(self.transform.forth(self.index), x_BQD, query, self.heads)
        return real_BMHI.permute(1, 2, 0, 3), imaginary_BMHI.permute(1, 2, 0, 3)

    def streams(self) -> Streams:
        """The bins that the modes are written to are theirs too."""
        return {**super().streams(), "bins": {0: "modes"}}


class FourierCrossBlock(FourierWeights):
    """Frequency enhanced attention: modes of a stream look at modes of the memory, and what they find is mixed.

    Section 3.3, with the tanh of the published runs in the place of a softmax.
    """

    unread = ("value",)
    key_index: Tensor

    def __init__(self, config: FEDformerConfig, widths: CrossBlockWidths, heads: int, steps: int, length: int) -> None:
        super().__init__(config, widths, heads, steps, length)
        memory_steps = config.lookback
        self.register_buffer("key_index", chosen_modes(memory_steps, widths.key_modes, config.mode_select))
        self.transform = FourierTransform(steps, self.named_bins, gain=1 / config.d_model**2)
        self.key_transform = FourierTransform(memory_steps, memory_steps // 2 + 1)
        self.tanh = complex_tanh if config.complex_tanh else torch.tanh  # else of both parts

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> Tensor:
        """Returns (B, N, Q)."""
        y_BRC = self.mix(*self.parts(x_BQD, memory_BSD, query, key))
        return self.place(to_series(y_BRC, self.synthesis()))

    def synthesis(self) -> Tensor:
        """Returns the series of the bins that were read."""
        return self.transform.back(self.index)

    def parts(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> tuple[Tensor, Tensor]:
        """Returns what the modes of the stream find in the memory."""
        return self._found(*self._asked(x_BQD, memory_BSD, query, key))

    def added_by_units(self, *read: Any) -> dict[str, Iterator[Tensor]]:
        """Returns what each mode adds, and what each of the memory's adds, which may be any of those that are found."""
        q_BHRE, k_BHYE = self._asked(*read)
        mixed = (self.mix(*self._found(q_BHRE, one_BH1E)) for one_BH1E in k_BHYE.chunk(k_BHYE.shape[2], dim=2))
        of_memory = (self.place(to_series(y_BRC, self.synthesis())) for y_BRC in mixed)
        return {**super().added_by_units(*read), "key_modes": of_memory}

    def _asked(self, x_BQD: Tensor, memory_BSD: Tensor, query: Linear, key: Linear) -> tuple[Tensor, Tensor]:
        """Returns queries (B, H, 2M, E) and keys (B, H, Y, E)."""
        query_parts = _projected(self.transform.forth(self.index), x_BQD, query, self.heads)
        key_parts = _projected(self.key_transform.forth(self.key_index), memory_BSD, key, self.heads)
        q_BHRE = _turned(*(part_BMHI.transpose(1, 2) for part_BMHI in query_parts))
        k_BHYE = torch.cat([part_BYHI.transpose(1, 2) for part_BYHI in key_parts], dim=3)
        return q_BHRE, k_BHYE

    def _found(self, q_BHRE: Tensor, k_BHYE: Tensor) -> tuple[Tensor, Tensor]:
        found_BHRE = self.tanh(q_BHRE @ k_BHYE.mT) @ k_BHYE
        # which part of a weight times which part of the memory: real real, real imaginary, imaginary real, the last
        found_BHM4I = torch.unflatten(torch.unflatten(found_BHRE, 3, (2, -1)), 2, (-1, 2)).flatten(3, 4)
        rr, ri, ir, ii = found_BHM4I.permute(3, 2, 1, 0, 4)
        return rr - ii, ri + ir

    def streams(self) -> Streams:
        """The memory's modes own no weight."""
        return {**super().streams(), "key_index": {0: "key_modes"}}

    def units(self) -> dict[str, Units]:
        """The memory's modes beside the others; channels meet in the products of queries and keys."""
        return {**super().units(), "inputs": Units("width", gate=("query",)), "key_modes": Units("mode")}


def _projected(matrix_RQ: Tensor, x_BQD: Tensor, layer: Linear, heads: int) -> tuple[Tensor, Tensor]:
    """Returns both parts (B, M, H, I) of the transform of the projected stream: the projection of its transform.

    A bias stands still, so it has a real part in bin 0 and nothing else: the sum of that row.
    """
    y_BRHI = torch.unflatten(layer.without_bias(over_time(matrix_RQ, x_BQD)), 2, (heads, -1))
    real_BMHI, imaginary_BMHI = y_BRHI.chunk(2, dim=1)
    return real_BMHI + _levels(matrix_RQ).unsqueeze(2) * layer.bias.view(heads, -1), imaginary_BMHI


def _levels(matrix_RQ: Tensor) -> Tensor:
    """Returns the real parts (M, 1) of the transform of a series of ones."""
    return matrix_RQ.chunk(2)[0].sum(1, keepdim=True)


def _turned(real: Tensor, imaginary: Tensor) -> Tensor:
    """Returns (..., 2K, 2I) of complex numbers (..., K, I): times real above imaginary parts, their complex products.

    Each number a + bi has two rows, of its product's real part (a, -b) and of its imaginary part (b, a).
    """
    rows = torch.stack([real, -imaginary, imaginary, real], dim=-2)
    return torch.unflatten(rows, -2, (2, 2)).flatten(-2).flatten(-3, -2)


def complex_tanh(numbers_BHRY: Tensor) -> Tensor:
    """Returns the tanh of complex numbers, as the original takes it; no large number overflows here."""
    real, imaginary = torch.unflatten(numbers_BHRY, 2, (-1, 2)).unbind(3)
    tanh, sine, cosine = real.tanh(), imaginary.sin(), imaginary.cos()
    scale = cosine.square() + (tanh * sine).square()
    return torch.stack([tanh / scale, sine * cosine * (1 - tanh.square()) / scale], dim=3).flatten(2, 3)


AnyFourierBlock = FourierBlock | FourierCrossBlock


class FourierAttention(Layer):
    """What a layer has for itself: projections to and from a block that it shares with the other layers."""

    def __init__(self, width: int, memory_width: int, block: AnyFourierBlock, block_name: str = "block") -> None:
        """Builds the projections.

        Args:
            width: of the stream.
            memory_width: of the memory's stream.
            block: which other layers have too.
            block_name: in the model, which owns it; groups are named after it.
        """
        super().__init__()
        self.query = Linear(width, block.heads * block.inputs)
        self.key = Linear(memory_width, block.heads * block.inputs)
        self.value = Linear(memory_width, block.heads * block.inputs)
        self.out = Linear(block.layout, width)
        self.block_name, self._shared = block_name, (block,)  # in a tuple, so that the block stays the model's own

    @property
    def block(self) -> AnyFourierBlock:
        """What it shares with the other layers of its stack."""
        return self._shared[0]

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor) -> Tensor:
        """Returns (B, Q, D)."""
        y_BNQ = self.block(x_BQD, memory_BSD, self.query, self.key)
        return cast("Tensor", self.out(y_BNQ.reshape(*x_BQD.shape[:2], -1)))

    def streams(self) -> Streams:
        """The projections write what the block reads, feature by feature of each head."""
        rows_HI = unit_index(self.block.heads, self.block.inputs)
        written = [(f"{self.block_name}.heads", rows_HI), (f"{self.block_name}.inputs", rows_HI.T)]
        return {
            "query": reads("stream") | writes(written),
            "key": reads("memory") | writes(written),
            "value": reads("memory") | writes(written),
            "out": writes("stream"),
        }

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the maps to queries and keys, whose bias is a column: it stands still, so it is in one row.

        They take all rows that the transform may have, zeros for modes that are gone: tokens of a model and of a
        smaller one have the same places.
        """

        def projection(name: str, read: int, transform: FourierTransform, bins_M: Tensor) -> LinearMap:
            def features(*streams: Tensor) -> Tensor:
                rows_RQ = transform.forth_in_place(bins_M)
                spectrum_BRD = over_time(rows_RQ, streams[read])
                level_R1 = torch.cat([_levels(rows_RQ), torch.zeros_like(_levels(rows_RQ))])
                level_BR1 = level_R1.expand(len(spectrum_BRD), -1, -1)
                return torch.cat([spectrum_BRD, level_BR1], dim=2).flatten(0, 1).unsqueeze(0)

            weight, bias = f"{name}.weight", f"{name}.bias"
            return LinearMap(
                parameters=(weight, bias),
                bias=None,
                features=features,
                matrix=lambda tensors: torch.cat([tensors[weight], tensors[bias].unsqueeze(1)], dim=1).unsqueeze(0),
                tensors=lambda matrix_1OI: {weight: matrix_1OI[0, :, :-1], bias: matrix_1OI[0, :, -1]},
            )

        block = self.block
        maps = {"query": projection("query", 0, block.transform, block.index)}
        if isinstance(block, FourierCrossBlock):
            maps["key"] = projection("key", 1, block.key_transform, block.key_index)
        return maps

    def unit_energies(self, *streams: Tensor) -> dict[str, Tensor]:
        """Returns what each mode adds behind the output's projection, which mixes channels and steps of all."""
        added = self.block.added_by_units(*streams, self.query, self.key)
        shape = streams[0].shape[0], streams[0].shape[1], self.block.layout

        def energy(series_BNQ: Tensor) -> Tensor:
            return self.out.without_bias(series_BNQ.reshape(shape)).square().mean()

        return {f"{self.block_name}.{kind}": torch.stack(list(map(energy, parts))) for kind, parts in added.items()}

    def unused(self) -> tuple[str, ...]:
        """The published projections that the block does not read."""
        return tuple(f"{part}.{kind}" for part in self.block.unread for kind in ("weight", "bias"))


class FEDformer(DecompositionModel):
    """Encoder and decoder that decompose, with three Fourier blocks in the place of attention."""

    Config = FEDformerConfig
    config: FEDformerConfig

    def __init__(self, config: FEDformerConfig) -> None:
        encoder, decoder, fourier = config.encoder_widths, config.decoder_widths, config.fourier_widths
        known, steps, drawn = config.lookback, config.label_len + config.horizon, config.decoder_length
        cross_heads = decoder.layers[0].cross_heads
        blocks: dict[str, AnyFourierBlock] = {
            "encoder": FourierBlock(config, fourier.encoder, encoder.layers[0].heads, known, known),
            "decoder": FourierBlock(config, fourier.decoder, decoder.layers[0].heads, steps, drawn),
            "cross": FourierCrossBlock(config, fourier.cross, cross_heads, steps, drawn),
        }

        def attention(width: int, memory_width: int, block: str) -> FourierAttention:
            return FourierAttention(width, memory_width, blocks[block], f"fourier.{block}")

        encoder_layers = (
            DecompositionEncoderLayer(config, attention(encoder.width, encoder.width, "encoder"), layer.d_ff)
            for layer in encoder.layers
        )
        decoder_layers = (
            DecompositionDecoderLayer(
                config,
                attention(decoder.width, decoder.width, "decoder"),
                attention(decoder.width, encoder.width, "cross"),
                layer.d_ff,
            )
            for layer in decoder.layers
        )
        super().__init__(config, encoder_layers, decoder_layers, position=config.position_embedding)
        self.fourier = nn.ModuleDict(blocks)

    def paper_candidates(self) -> tuple[str, ...]:
        """Names as for every model; the weights of the Fourier blocks were no candidates in that study."""
        return tuple(name for name in super().paper_candidates() if not name.startswith("fourier."))

    def streams(self) -> Streams:
        """The Fourier blocks beside what every model that decomposes has."""
        return {"fourier": {}, **super().streams()}
