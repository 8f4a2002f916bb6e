"""Crossformer: tokens are segments of single channels; attention goes along time and across channels, scale by scale.

Zhang and Yan 2023, "Crossformer: Transformer Utilizing Cross-Dimension Dependency for Multivariate Time Series
Forecasting", section 3; numerically equal to the authors' code and to Time-Series-Library's `Crossformer`. Calendar
features do not reach the forecast.

B batch, L look-back, H horizon, C channels, S segments, P steps of a segment, R routers, W width of the routers,
D width of the encoder's stream at a scale, E width of the decoder's stream, T steps of the whole segments ahead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear, add_norm
from prunecast.models.base import (
    Binding,
    ForecastModel,
    Keep,
    Layer,
    Streams,
    Units,
    check_inputs,
    kept,
    reads,
    writes,
)
from prunecast.models.layers.blocks import Attention, FeedForward, sinusoids
from prunecast.models.layers.widths import HeadsConfig, Of, Widths

TIME, CHANNEL = 2, 1
"""Dimensions of a stream (B, C, S, D): along which the steps of the first and of the second stage lie."""

Progress = tuple[Tensor, Tensor | None]
"""What goes through the decoder's layers: its stream (B, C, S, E) and the forecast so far (B, C, S, P)."""


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


class CrossformerEncoderLayerWidths(TwoStageWidths):
    """Of one encoder layer, and at which scale it works: 0 is the finest."""

    scale: int = Field(ge=0)


class CrossformerDecoderLayerWidths(TwoStageWidths):
    """Of one decoder layer, and which memory it looks at: 0 is the embedding, i + 1 what scale i made of it."""

    memory: int = Field(ge=0)
    cross_heads: int = Field(ge=1)
    d_ff: int = Field(ge=1, description="units of the feed-forward layer behind the attention to the memory")

    def left(self, keep: Keep, part: str) -> Self:
        """Returns the widths that `keep` leaves; the two stages are the layer's self-attention."""
        changes = {
            "cross_heads": kept(keep, f"{part}.cross_attention.heads", self.cross_heads),
            "d_ff": kept(keep, f"{part}.feed_forward.units", self.d_ff),
        }
        return super().left(keep, f"{part}.self_attention").model_copy(update=changes)


class CrossformerEncoderWidths(Widths):
    """Of the encoder's stream at each scale, and of each layer."""

    widths: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    layers: tuple[CrossformerEncoderLayerWidths, ...] = Field(min_length=1)

    def left(self, keep: Keep, part: str) -> Self:
        """Returns the widths that `keep` leaves; each scale's stream is a group of its own."""
        widths = tuple(kept(keep, f"{part}.widths.{i}", width) for i, width in enumerate(self.widths))
        return super().left(keep, part).model_copy(update={"widths": widths})


class CrossformerDecoderWidths(Widths):
    """Of the decoder's stream, and of each layer."""

    width: Annotated[int, Of("width")] = Field(ge=1)
    layers: tuple[CrossformerDecoderLayerWidths, ...] = Field(min_length=1)


class CrossformerConfig(HeadsConfig):
    """Defaults are those of the authors' code.

    The variant of Time-Series-Library adds a fixed table to the learned positions, embeds segments without bias,
    completes the first segment at the other end of the look-back, and cuts the forecast at its other end; it fixes
    `seg_len` at 12 and `win_size` at 2.
    """

    name: Literal["crossformer"] = "crossformer"
    label_len: int = Field(0, ge=0, description="without meaning here: no known step goes into the decoder")
    variant: Literal["original", "tslib"] = Field("original", description="whose model: the authors', or as above")
    seg_len: int = Field(6, ge=1, description="steps of a segment")
    win_size: int = Field(2, ge=1, description="segments that are merged into one of the next scale")
    d_model: int = Field(256, ge=1)
    n_heads: int = Field(4, ge=1)
    d_ff: int = Field(512, ge=1)
    encoder_layers: int = Field(3, ge=1, description="scales; the decoder has one layer more")
    factor: int = Field(10, ge=1, description="routers of a layer")
    dropout: float = Field(0.2, ge=0, lt=1)
    baseline: bool = Field(False, description="add the mean of the look-back to the forecast")
    encoder: CrossformerEncoderWidths | None = Field(None, description="widths after pruning; else from the keys above")
    decoder: CrossformerDecoderWidths | None = Field(None, description="widths after pruning; else from the keys above")

    @model_validator(mode="after")
    def _windows_can_be_filled(self) -> Self:
        segments = -(-self.lookback // self.seg_len)
        for _ in range(self.encoder_layers - 1):
            coarser = -(-segments // self.win_size)
            if coarser * self.win_size > 2 * segments:  # a scale is completed with a copy of its own end
                raise ValueError(
                    f"win_size: expected at most {2 * segments}, twice the segments of a scale, found {self.win_size}"
                )
            if coarser == segments:
                break
            segments = coarser
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> Self:
        if self.encoder is not None:
            scales = [layer.scale for layer in self.encoder.layers]
            streams = self.stream_of(self.encoder_layers - 1) + 1
            if len(self.encoder.widths) != streams:
                raise ValueError(
                    f"encoder.widths: expected {streams}, one for each scale, found {len(self.encoder.widths)}"
                )
            if scales != sorted(scales) or scales[-1] >= self.encoder_layers:
                raise ValueError(f"encoder.layers: expected rising scales below {self.encoder_layers}, found {scales}")
        if self.scales_read > self.encoder_layers:
            raise ValueError(f"decoder.layers: expected memories up to {self.encoder_layers}, found {self.scales_read}")
        return self

    @property
    def segments(self) -> tuple[int, ...]:
        """Segments of the look-back at each scale."""
        counts = [-(-self.lookback // self.seg_len)]
        while len(counts) < self.encoder_layers:
            counts.append(-(-counts[-1] // self.win_size))
        return tuple(counts)

    @property
    def segments_ahead(self) -> int:
        """Segments that the decoder writes; the horizon may end within the last one."""
        return -(-self.horizon // self.seg_len)

    def stream_of(self, scale: int) -> int:
        """Returns which of the encoder's streams a scale works on: its own, unless nothing is merged."""
        return 0 if self.win_size == 1 else scale

    def memory_stream(self, memory: int) -> int:
        """Returns which of the encoder's streams a memory comes from."""
        return self.stream_of(max(memory - 1, 0))

    @property
    def encoder_widths(self) -> CrossformerEncoderWidths:
        """The encoder's widths, given or derived."""
        if self.encoder is not None:
            return self.encoder
        streams = self.stream_of(self.encoder_layers - 1) + 1
        layers = (
            CrossformerEncoderLayerWidths(scale=scale, **self._published_layer) for scale in range(self.encoder_layers)
        )
        return CrossformerEncoderWidths(widths=(self.d_model,) * streams, layers=tuple(layers))

    @property
    def decoder_widths(self) -> CrossformerDecoderWidths:
        """The decoder's widths, given or derived."""
        if self.decoder is not None:
            return self.decoder
        own = {"cross_heads": self.n_heads, "d_ff": self.d_model} | self._published_layer
        layers = (CrossformerDecoderLayerWidths(memory=memory, **own) for memory in range(self.encoder_layers + 1))
        return CrossformerDecoderWidths(width=self.d_model, layers=tuple(layers))

    @property
    def _published_layer(self) -> dict[str, int]:
        return TwoStageWidths.published(self.d_model, self.n_heads, self.d_ff, self.factor)

    @property
    def scales_read(self) -> int:
        """How many of the encoder's scales reach the forecast: those up to the coarsest that is looked at."""
        return self.encoder_layers if self.decoder is None else max(layer.memory for layer in self.decoder.layers)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; group names are those of the model's groups."""
        encoder, decoder = self.encoder_widths.left(keep, "encoder"), self.decoder_widths.left(keep, "decoder")
        return self.model_copy(update={"head_size": self.size_per_head, "encoder": encoder, "decoder": decoder})


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
        if self.pad:  # a whole number of segments: the first value is repeated in front, or the last one at the end
            edge = x_BLC[:, :1] if self.at_front else x_BLC[:, -1:]
            more = edge.expand(-1, self.pad, -1)
            x_BLC = torch.cat([more, x_BLC] if self.at_front else [x_BLC, more], dim=1)
        x_BCSP = x_BLC.transpose(1, 2).reshape(x_BLC.shape[0], channels, segments, -1)
        position = self.position if self.fixed_position is None else self.position + self.fixed_position
        return cast("Tensor", self.norm(self.value(x_BCSP) + position))

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


class CrossformerEncoder(Layer):
    """Relates the segments at each scale; from one scale to the next they are merged."""

    def __init__(self, config: CrossformerConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.scales, self.scale_of = config.scales_read, tuple(layer.scale for layer in widths.layers)
        self.embedding = SegmentEmbedding(config, widths.widths[0])
        self.merging = nn.ModuleList(
            SegmentMerging(config.win_size, finer, coarser) for finer, coarser in pairwise(widths.widths)
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
            at = [layer for layer, scale in enumerate(self.scale_of) if min(scale, len(self.merging)) == stream]
            found |= {f"layers.{layer}": {"stream": width} for layer in at}
            if stream < len(self.merging):
                found[f"merging.{stream}"] = {"finer": width, "coarser": f"widths.{stream + 1}"}
        return found


class CrossformerDecoderLayer(Layer):
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


class CrossformerDecoder(Layer):
    """Starts from a learned vector for each channel and segment ahead; every layer adds its share of the forecast."""

    def __init__(self, config: CrossformerConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.position = nn.Parameter(torch.randn(config.channels, config.segments_ahead, widths.width))
        self.layers = nn.ModuleList(CrossformerDecoderLayer(config, layer) for layer in widths.layers)

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
        super().__init__(config)
        self.encoder = CrossformerEncoder(config)
        self.decoder = CrossformerDecoder(config)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs); the marks are not used."""
        check_inputs(self.config, x_BLC)
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
        scales = range(max(self.config.scales_read, 1), self.config.encoder_layers)
        unread = (
            *(f"encoder.merging.{scale - 1}." for scale in scales),
            *(f"encoder.layers.{layer}." for layer in self._unread_layers()),
            *self._settled(),
        )
        return tuple(name for name, _ in self.named_parameters() if name.startswith(unread))

    @property
    def _streams(self) -> int:
        return len(self.config.encoder_widths.widths)

    def _unread_layers(self) -> tuple[int, ...]:
        return tuple(i for i, scale in enumerate(self.encoder.scale_of) if scale >= self.config.scales_read)

    def _settled(self) -> Iterator[str]:
        """Yields prefixes of the names of what chooses among memory steps, for attentions to a single step."""
        config, decoder = self.config, [cast("CrossformerDecoderLayer", layer) for layer in self.decoder.layers]
        two_stages = [
            (f"encoder.layers.{i}", cast("TwoStageLayer", self.encoder.layers[i]), config.segments[scale])
            for i, scale in enumerate(self.encoder.scale_of)
        ]
        two_stages += [
            (f"decoder.layers.{i}.self_attention", layer.self_attention, config.segments_ahead)
            for i, layer in enumerate(decoder)
        ]
        settled = []
        for name, layer, segments in two_stages:
            stage = f"{name}.channel_attention"
            if segments == 1:
                settled.append(f"{name}.time_attention")
            if config.channels == 1:
                yield f"{stage}.routers"
                settled.append(f"{stage}.sender")
            if layer.channel_attention.routers.shape[0] == 1:
                settled.append(f"{stage}.receiver")
        for i, reader in enumerate(decoder):
            if config.segments[max(reader.memory - 1, 0)] == 1:
                settled.append(f"decoder.layers.{i}.cross_attention")
        yield from (f"{attention}.{asks}." for attention in settled for asks in ("query", "key"))
