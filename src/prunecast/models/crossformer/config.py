"""Crossformer's config: the published keys, and one by one the widths that pruning leaves."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunecast.models.base import Keep, kept
from prunecast.models.crossformer.two_stage import TwoStageWidths
from prunecast.models.layers.widths import HeadsConfig, Of, Widths


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
