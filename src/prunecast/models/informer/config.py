"""Informer's config: the published keys, what tells its published variants apart, and the widths after pruning."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunecast.models.base import Keep, kept
from prunecast.models.layers.widths import (
    DecoderLayerWidths,
    DecoderWidths,
    EncoderDecoderConfig,
    EncoderLayerWidths,
    EncoderWidths,
    Of,
)

Places = tuple[int, ...]
"""Which heads of the dense layer these are, ascending: where mixed heads write depends on it."""


class SegmentLayerWidths(EncoderLayerWidths):
    """Of one encoder layer; `heads` is the number of `places`."""

    places: Annotated[Places, Of("attention.heads")]
    segment: int = Field(ge=0, description="after how many distilling convolutions it stands")


class SegmentWidths(EncoderWidths):
    """Of the encoder; `width` is that of its last segment."""

    earlier: tuple[int, ...] = Field((), description="widths of the segments before, each ended by a convolution")
    layers: tuple[SegmentLayerWidths, ...] = Field(min_length=1)

    @property
    def streams(self) -> tuple[int, ...]:
        """The width of each segment's stream."""
        return (*self.earlier, self.width)

    def left(self, keep: Keep, part: str) -> Self:
        """Returns the widths that `keep` leaves; each segment's stream is a group of its own."""
        *earlier, width = (kept(keep, f"{part}.width.{i}", width) for i, width in enumerate(self.streams))
        return super().left(keep, part).model_copy(update={"earlier": tuple(earlier), "width": width})


class InformerDecoderLayerWidths(DecoderLayerWidths):
    """Of one decoder layer; `heads` and `cross_heads` are the numbers of their places."""

    places: Annotated[Places, Of("self_attention.heads")]
    cross_places: Annotated[Places, Of("cross_attention.heads")]


class InformerDecoderWidths(DecoderWidths):
    """Of the decoder's stream and each of its layers."""

    layers: tuple[InformerDecoderLayerWidths, ...] = Field(min_length=1)


def distilled_steps(steps: int, padding: int) -> int:
    """Returns how many steps a distilling convolution of some padding leaves of so many."""
    return (steps + 2 * (padding - 1) - 1) // 2 + 1


class InformerConfig(EncoderDecoderConfig):
    """Defaults are the published run's at paper size.

    The published code samples keys anew on every call. By default a model keeps the sample that it was built with:
    its training then sees the function that it will be judged by. `resample` is the published way to train.
    """

    name: Literal["informer"] = "informer"
    factor: int = Field(3, ge=1, description="how many keys are sampled and queries chosen: factor * ceil(ln(steps))")
    distil: bool = Field(True, description="convolutions that halve the steps between encoder layers")
    distil_padding: Literal[1, 2] = Field(
        2, description="of those convolutions: 2 lengthens by two steps, as published"
    )
    cross_attention: Literal["prob", "full"] = Field("prob", description="of the decoder to the encoder")
    mix: bool = Field(True, description="the decoder's self-attention reads its heads as steps")
    mix_all: bool = Field(True, description="all other ProbSparse layers do so too")
    embedding_bias: bool = Field(False, description="biases of the token convolution and of the calendar embedding")
    resample: bool = Field(False, description="sample keys anew on every call in training")
    encoder: SegmentWidths | None = Field(None, description="widths after pruning; from the keys above when absent")
    decoder: InformerDecoderWidths | None = Field(None, description="widths after pruning, likewise")

    @model_validator(mode="after")
    def _segments_fit(self) -> Self:
        streams = len(self.encoder_widths.streams)
        if streams > 1 and not self.distil:
            raise ValueError(f"distil: expected true, since encoder.earlier has {streams - 1} widths, found false")
        segments = [layer.segment for layer in self.encoder_widths.layers]
        if segments != sorted(segments) or segments[-1] >= streams:
            raise ValueError(f"encoder.layers: expected segments that ascend, all below {streams}, found {segments}")
        return self

    @model_validator(mode="after")
    def _places_fit(self) -> Self:
        encoder, decoder = self.encoder_widths.layers, self.decoder_widths.layers
        heads = [(layer.heads, layer.places) for layer in encoder]
        heads += [(layer.heads, layer.places) for layer in decoder]
        heads += [(layer.cross_heads, layer.cross_places) for layer in decoder]
        for count, places in heads:
            if len(places) != count or list(places) != sorted({*places} & {*range(self.n_heads)}):
                raise ValueError(f"places: expected {count} ascending numbers below {self.n_heads}, found {places}")
        return self

    @property
    def encoder_widths(self) -> SegmentWidths:
        """The encoder's widths, given or derived: without distilling all layers share one segment."""
        if self.encoder is not None:
            return self.encoder
        places, last = tuple(range(self.n_heads)), self.encoder_layers - 1
        layers = (
            SegmentLayerWidths(heads=self.n_heads, places=places, d_ff=self.d_ff, segment=layer if self.distil else 0)
            for layer in range(self.encoder_layers)
        )
        earlier = (self.d_model,) * last if self.distil else ()
        return SegmentWidths(width=self.d_model, earlier=earlier, layers=tuple(layers))

    @property
    def decoder_widths(self) -> InformerDecoderWidths:
        """The decoder's widths, given or derived."""
        if self.decoder is not None:
            return self.decoder
        places, heads = tuple(range(self.n_heads)), self.n_heads
        layer = InformerDecoderLayerWidths(
            heads=heads, places=places, cross_heads=heads, cross_places=places, d_ff=self.d_ff
        )
        return InformerDecoderWidths(width=self.d_model, layers=(layer,) * self.decoder_layers)

    @property
    def segment_steps(self) -> tuple[int, ...]:
        """How many steps each segment of the encoder sees."""
        steps = [self.lookback]
        for _ in self.encoder_widths.earlier:
            steps.append(distilled_steps(steps[-1], self.distil_padding))
        return tuple(steps)
