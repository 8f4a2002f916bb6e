"""Crossformer: tokens are segments of single channels; attention goes along time and across channels, scale by scale.

Zhang and Yan 2023, "Crossformer: Transformer Utilizing Cross-Dimension Dependency for Multivariate Time Series
Forecasting", section 3; numerically equal to the authors' code and to Time-Series-Library's `Crossformer`. Calendar
features do not reach the forecast.

B batch, L look-back, H horizon, C channels, S segments, P steps of a segment, D width of the encoder's stream at a
scale, E width of the decoder's stream, T steps of the whole segments ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import Binding, ForecastModel, Layer, Streams, Units, check_history, reads, writes
from prunecast.models.crossformer.config import CrossformerConfig, CrossformerDecoderLayerWidths
from prunecast.models.crossformer.two_stage import TIME, TwoStageLayer
from prunecast.models.layers.blocks import Attention, FeedForward
from prunecast.models.layers.embedding import sinusoids

Progress = tuple[Tensor, Tensor | None]
"""What goes through the decoder's layers: its stream (B, C, S, E) and the forecast so far (B, C, S, P)."""


class SegmentEmbedding(Layer):
    """Linear map of each segment + a learned vector for its channel and place, normalised."""

    fixed_position: Tensor | None

    def __init__(self, config: CrossformerConfig, width: int) -> None:
        super().__init__()
        original, segments = config.variant == "original", config.segments[0]
        self.pad, self.at_front = segments * config.seg_len - config.lookback, original
        self.value = Linear(config.seg_len, width, bias=original)
        self.position = nn.Parameter(torch.randn(config.channels, segments, width))
        self.register_buffer("fixed_position", None if original else sinusoids(segments, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Returns the tokens (B, C, S, D)."""
        channels, segments, _ = self.position.shape
        x_BCSP = self._padded(x_BLC).transpose(1, 2).reshape(x_BLC.shape[0], channels, segments, -1)
        position = self.position if self.fixed_position is None else self.position + self.fixed_position
        return cast("Tensor", self.norm(self.value(x_BCSP) + position))

    def _padded(self, x_BLC: Tensor) -> Tensor:
        """Returns a whole number of segments: the first value is repeated in front, or the last one at the end."""
        if not self.pad:
            return x_BLC
        edge = x_BLC[:, :1] if self.at_front else x_BLC[:, -1:]
        more = edge.expand(-1, self.pad, -1)
        return torch.cat([more, x_BLC] if self.at_front else [x_BLC, more], dim=1)

    def streams(self) -> Streams:
        """All of it writes the stream."""
        return {"value": writes("stream"), "position": {2: "stream"}, "fixed_position": {1: "stream"}}


class SegmentMerging(Layer):
    """Neighbouring segments side by side become one of the next, coarser scale."""

    def __init__(self, window: int, width: int, coarser_width: int) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(window * width)
        self.linear = Linear(window * width, coarser_width)

    def forward(self, x_BCSD: Tensor) -> Tensor:
        """Returns (B, C, ceil(S / window), coarser width); what a whole window lacks is repeated from the end."""
        missing = -x_BCSD.shape[2] % self.window
        if missing:
            x_BCSD = torch.cat([x_BCSD, x_BCSD[:, :, -missing:]], dim=2)
        merged = x_BCSD.reshape(*x_BCSD.shape[:2], -1, self.window * x_BCSD.shape[3])  # as they lie: no copy
        return cast("Tensor", self.linear(self.norm(merged)))

    def streams(self) -> Streams:
        """A unit of the finer stream has a place in every segment of the window."""
        places = torch.arange(self.norm.normalized_shape[0]).view(self.window, -1).T
        finer = ("finer", places)
        return {"norm": {"stream": finer}, "linear": reads(finer) | writes("coarser")}


class Encoder(Layer):
    """Relates the segments at each scale; from one scale to the next they are merged."""

    def __init__(self, config: CrossformerConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.scales, self.scale_of = config.scales_read, tuple(layer.scale for layer in widths.layers)
        self.embedding = SegmentEmbedding(config, widths.widths[0])
        self.merging = nn.ModuleList(
            SegmentMerging(config.win_size, finer, coarser)
            for finer, coarser in zip(widths.widths, widths.widths[1:], strict=False)
        )
        self.layers = nn.ModuleList(
            TwoStageLayer(
                layer,
                widths.widths[config.stream_of(layer.scale)],
                config.segments[layer.scale],
                config.size_per_head,
                config.dropout,
            )
            for layer in widths.layers
        )

    def forward(self, x_BLC: Tensor) -> list[Tensor]:
        """Returns the tokens as they were embedded, then as each scale left them: (B, C, S, D), S and D the scale's."""
        memories = [self.embedding(x_BLC)]
        for scale in range(self.scales):  # no work is done for scales that no decoder layer looks at
            x_BCSD = memories[-1]
            if scale and self.merging:
                x_BCSD = self.merging[scale - 1](x_BCSD)
            for at, layer in zip(self.scale_of, self.layers, strict=True):
                x_BCSD = layer(x_BCSD) if at == scale else x_BCSD
            memories.append(x_BCSD)
        return memories

    def streams(self) -> Streams:
        """A stream for each scale that merging leads to, in the order of the scales."""
        found: dict[str, Binding] = {"embedding": {"stream": "widths.0"}}
        for stream in range(len(self.merging) + 1):
            width = f"widths.{stream}"
            layers = [f"layers.{layer}" for layer, scale in enumerate(self.scale_of) if self._stream(scale) == stream]
            found |= {layer: {"stream": width} for layer in layers}
            if stream < len(self.merging):
                found[f"merging.{stream}"] = {"finer": width, "coarser": f"widths.{stream + 1}"}
        return found

    def _stream(self, scale: int) -> int:
        return min(scale, len(self.merging))


class DecoderLayer(Layer):
    """Two-stage attention, attention along time to one of the encoder's memories, feed-forward, and a forecast."""

    def __init__(self, config: CrossformerConfig, widths: CrossformerDecoderLayerWidths) -> None:
        super().__init__()
        width, size, dropout = config.decoder_widths.width, config.size_per_head, config.dropout
        memory_width = config.encoder_widths.widths[config.memory_stream(widths.memory)]
        self.memory = widths.memory
        self.self_attention = TwoStageLayer(widths, width, config.segments_ahead, size, dropout)
        self.cross_attention = Attention(width, memory_width, widths.cross_heads, size, dropout)
        self.feed_forward = FeedForward(width, widths.d_ff, "gelu", dropout=0.0)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection = Linear(width, config.seg_len)
        self.dropout = Dropout(dropout)

    def forward(self, progress: Progress, memories: list[Tensor]) -> Progress:
        """Returns the stream and the forecast with this layer's share."""
        x_BCSE, y_BCSP = progress
        x_BCSE = self.self_attention(x_BCSE)
        x_BCSE = self.norm1(x_BCSE + self.dropout(self.cross_attention(x_BCSE, memories[self.memory], dim=TIME)))
        x_BCSE = self.norm2(x_BCSE + self.feed_forward(x_BCSE))
        share_BCSP = self.projection(x_BCSE)
        return x_BCSE, share_BCSP if y_BCSP is None else y_BCSP + share_BCSP

    def streams(self) -> Streams:
        """The memory is one of several; the projection reads the stream."""
        return {"cross_attention": {"memory": f"memory.{self.memory}"}, "projection": reads("stream")}


class Decoder(Layer):
    """Starts from a learned vector for each channel and segment ahead; every layer adds its share of the forecast."""

    def __init__(self, config: CrossformerConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.position = nn.Parameter(torch.randn(config.channels, config.segments_ahead, widths.width))
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in widths.layers)

    def forward(self, memories: list[Tensor]) -> Tensor:
        """Returns the forecast of whole segments (B, C, S * P)."""
        position_1CSE = self.position.unsqueeze(0)
        if self.training:  # each sample drops other things; otherwise all of them share the first self-attention
            position_1CSE = position_1CSE.expand(memories[0].shape[0], -1, -1, -1)
        progress: Progress = position_1CSE, None
        for layer in self.layers:
            progress = layer(progress, memories)
        return cast("Tensor", progress[1]).flatten(2)

    def streams(self) -> Streams:
        """The learned vectors are the stream at its start."""
        return {"position": {2: "stream"}}


class Crossformer(ForecastModel):
    """Both published variants, as the config says; every width is in it."""

    Config = CrossformerConfig
    config: CrossformerConfig

    def __init__(self, config: CrossformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs); the marks are not used.

        Raises:
            UserError: when the look-back's shape is not the one of the config.
        """
        check_history(self.config, x_BLC)
        y_BTC = self.decoder(self.encoder(x_BLC)).transpose(1, 2)
        # of the last segment, the published variants drop different ends
        beyond = y_BTC.shape[1] - self.config.horizon
        y_BHC = y_BTC[:, : self.config.horizon] if self.config.variant == "original" else y_BTC[:, beyond:]
        return self.select(x_BLC.mean(1, keepdim=True) + y_BHC if self.config.baseline else y_BHC)

    def output_layer(self) -> tuple[str, ...]:
        """The projections that write each decoder layer's share of the forecast."""
        return tuple(f"decoder.layers.{layer}.projection.weight" for layer in range(len(self.decoder.layers)))

    def streams(self) -> Streams:
        """A residual stream for each scale of the encoder and one of the decoder, which looks at all of them."""
        scales = range(self.config.encoder_layers + 1)
        memories: Binding = {
            f"memory.{memory}": f"encoder.widths.{self.config.memory_stream(memory)}" for memory in scales
        }
        widths: Binding = {f"widths.{stream}": f"encoder.widths.{stream}" for stream in range(self._streams)}
        return {"encoder": widths, "decoder": {"stream": "decoder.width", **memories}}

    def units(self) -> dict[str, Units]:
        """The width of each stream, whole layers."""
        return {
            **{f"encoder.widths.{stream}": Units("width") for stream in range(self._streams)},
            "decoder.width": Units("width"),
            "encoder.layers": Units("layer", unused_units=self._unread_layers()),
            "decoder.layers": Units("layer"),
        }

    def unused(self) -> tuple[str, ...]:
        """What asks and answers where there is only one answer, and the scales that no decoder layer looks at."""
        parameters = [name for name, _ in self.named_parameters()]
        prefixes = (*self._settled(), *self._unread())
        return tuple(name for name in parameters if name.startswith(prefixes))

    @property
    def _decoder_layers(self) -> list[DecoderLayer]:
        return [cast("DecoderLayer", layer) for layer in self.decoder.layers]

    @property
    def _streams(self) -> int:
        return len(self.config.encoder_widths.widths)

    def _unread(self) -> Iterator[str]:
        """Yields prefixes of the names of what works at scales that are not looked at."""
        read = self.config.scales_read
        for scale in range(max(read, 1), self.config.encoder_layers):
            yield f"encoder.merging.{scale - 1}."
        for layer in self._unread_layers():
            yield f"encoder.layers.{layer}."

    def _unread_layers(self) -> tuple[int, ...]:
        return tuple(i for i, scale in enumerate(self.encoder.scale_of) if scale >= self.config.scales_read)

    def _settled(self) -> Iterator[str]:
        """Yields prefixes of the names of what chooses among memory steps, for attentions to a single step."""
        config = self.config
        for name, layer, segments in self._two_stage_layers():
            stage = f"{name}.channel_attention"
            if segments == 1:
                yield from _choice(f"{name}.time_attention")
            if config.channels == 1:
                yield from (f"{stage}.routers", *_choice(f"{stage}.sender"))
            if layer.channel_attention.routers.shape[0] == 1:
                yield from _choice(f"{stage}.receiver")
        for number, decoder in enumerate(self._decoder_layers):
            if config.segments[max(decoder.memory - 1, 0)] == 1:
                yield from _choice(f"decoder.layers.{number}.cross_attention")

    def _two_stage_layers(self) -> Iterator[tuple[str, TwoStageLayer, int]]:
        """Yields the name of each two-stage layer, the layer, and how many segments it sees."""
        for number, scale in enumerate(self.encoder.scale_of):
            two_stages = cast("TwoStageLayer", self.encoder.layers[number])
            yield f"encoder.layers.{number}", two_stages, self.config.segments[scale]
        for number, layer in enumerate(self._decoder_layers):
            yield f"decoder.layers.{number}.self_attention", layer.self_attention, self.config.segments_ahead


def _choice(attention: str) -> tuple[str, str]:
    """Returns prefixes of the names of the parameters by which an attention weighs what it looks at."""
    return f"{attention}.query.", f"{attention}.key."
