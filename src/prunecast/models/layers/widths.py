"""Widths of an encoder and a decoder: derived from the published keys, or given one by one after pruning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from prunecast.models.base import ForecasterConfig, Keep
from prunecast.records import Strict


class EncoderLayerWidths(Strict):
    """Of one encoder layer: attention heads and feed-forward units."""

    heads: int = Field(ge=1)
    d_ff: int = Field(ge=1)


class DecoderLayerWidths(EncoderLayerWidths):
    """Of one decoder layer, which also has heads that look at the encoder."""

    cross_heads: int = Field(ge=1)


class EncoderWidths(Strict):
    """Of the encoder's stream and each of its layers."""

    width: int = Field(ge=1)
    layers: tuple[EncoderLayerWidths, ...] = Field(min_length=1)


class DecoderWidths(Strict):
    """Of the decoder's stream and each of its layers."""

    width: int = Field(ge=1)
    layers: tuple[DecoderLayerWidths, ...] = Field(min_length=1)


class EncoderConfig(ForecasterConfig):
    """Published keys of an encoder; `encoder` holds what pruning left."""

    d_model: int = Field(512, ge=1)
    n_heads: int = Field(8, ge=1)
    head_size: int | None = Field(None, ge=1, description="d_model / n_heads when absent")
    d_ff: int = Field(2048, ge=1)
    encoder_layers: int = Field(2, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    activation: Literal["gelu", "relu"] = "gelu"
    encoder: EncoderWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.head_size is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads: expected a divisor of d_model ({self.d_model}) or head_size beside it, found {self.n_heads}"
            )
        _check_layers("encoder", self.encoder, self.encoder_layers)
        return self

    @property
    def size_per_head(self) -> int:
        """Features of one head, before and after pruning."""
        return self.head_size or self.d_model // self.n_heads

    @property
    def encoder_widths(self) -> EncoderWidths:
        """The encoder's widths, given or derived."""
        layer = EncoderLayerWidths(heads=self.n_heads, d_ff=self.d_ff)
        return self.encoder or EncoderWidths(width=self.d_model, layers=(layer,) * self.encoder_layers)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units.

        Group names are those of `Encoder` in `transformer.py`: "encoder.width", "encoder.layers",
        "encoder.layers.0.attention.heads", "encoder.layers.0.feed_forward.units" and so on.
        """
        encoder = _kept_encoder(self.encoder_widths, keep)
        changes = {"head_size": self.size_per_head, "encoder_layers": len(encoder.layers), "encoder": encoder}
        return self.model_copy(update=changes)


class EncoderDecoderConfig(EncoderConfig):
    """Published keys of an encoder-decoder Transformer; `encoder` and `decoder` hold what pruning left."""

    decoder_layers: int = Field(1, ge=1)
    decoder: DecoderWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @model_validator(mode="after")
    def _decoder_fits(self) -> Self:
        _check_layers("decoder", self.decoder, self.decoder_layers)
        return self

    @property
    def decoder_widths(self) -> DecoderWidths:
        """The decoder's widths, given or derived."""
        layer = DecoderLayerWidths(heads=self.n_heads, cross_heads=self.n_heads, d_ff=self.d_ff)
        return self.decoder or DecoderWidths(width=self.d_model, layers=(layer,) * self.decoder_layers)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; group names as above, and those of `Decoder`."""
        decoder = _kept_decoder(self.decoder_widths, keep)
        changes = {"decoder_layers": len(decoder.layers), "decoder": decoder}
        return super().shrunk(keep).model_copy(update=changes)


def _check_layers(stream: str, widths: EncoderWidths | DecoderWidths | None, layers: int) -> None:
    if widths is not None and len(widths.layers) != layers:
        raise ValueError(f"{stream}_layers: expected {len(widths.layers)}, as {stream}.layers, found {layers}")


def _kept_encoder(widths: EncoderWidths, keep: Keep) -> EncoderWidths:
    layers = tuple(
        EncoderLayerWidths(
            heads=kept(keep, f"encoder.layers.{i}.attention.heads", widths.layers[i].heads),
            d_ff=kept(keep, f"encoder.layers.{i}.feed_forward.units", widths.layers[i].d_ff),
        )
        for i in kept_layers(keep, "encoder.layers", len(widths.layers))
    )
    return EncoderWidths(width=kept(keep, "encoder.width", widths.width), layers=layers)


def _kept_decoder(widths: DecoderWidths, keep: Keep) -> DecoderWidths:
    layers = tuple(
        DecoderLayerWidths(
            heads=kept(keep, f"decoder.layers.{i}.self_attention.heads", widths.layers[i].heads),
            cross_heads=kept(keep, f"decoder.layers.{i}.cross_attention.heads", widths.layers[i].cross_heads),
            d_ff=kept(keep, f"decoder.layers.{i}.feed_forward.units", widths.layers[i].d_ff),
        )
        for i in kept_layers(keep, "decoder.layers", len(widths.layers))
    )
    return DecoderWidths(width=kept(keep, "decoder.width", widths.width), layers=layers)


def kept(keep: Keep, group: str, size: int) -> int:
    """Returns how many of a group's units stay."""
    return len(keep[group]) if group in keep else size


def kept_layers(keep: Keep, group: str, layers: int) -> list[int]:
    """Returns which layers of a stack stay."""
    stay: Tensor | None = keep.get(group)
    return list(range(layers)) if stay is None else stay.tolist()
