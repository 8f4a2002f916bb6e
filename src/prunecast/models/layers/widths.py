"""Widths of an encoder and a decoder: derived from the published keys, or given one by one after pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from prunecast.models.base import ForecasterConfig, Keep
from prunecast.records import Strict

Activation = Literal["gelu", "relu"]
"""Of feed-forward layers."""


@dataclass(frozen=True)
class Of:
    """Says of a field of `Widths` which group it is about: its size, or which of the dense layer's units are left."""

    group: str


class Widths(Strict):
    """Of one part of a model; what pruning leaves of them follows from the names of groups and fields."""

    def left(self, keep: Keep, part: str) -> Self:
        """Returns the widths that `keep` leaves of the part of a name.

        A field that is `Of` a group is what is left of that one, whose name begins with the part's; a field of widths
        is a part below, a tuple of widths a stack of layers.
        """
        changes: dict[str, Any] = {}
        for field, info in type(self).model_fields.items():
            value, below = getattr(self, field), f"{part}.{field}"
            group = next((f"{part}.{of.group}" for of in info.metadata if isinstance(of, Of)), "")
            if group in keep:
                units = keep[group].tolist()
                changes[field] = tuple(value[unit] for unit in units) if isinstance(value, tuple) else len(units)
            elif isinstance(value, Widths):
                changes[field] = value.left(keep, below)
            elif isinstance(value, tuple) and all(isinstance(layer, Widths) for layer in value):
                stay = keep[below].tolist() if below in keep else range(len(value))
                changes[field] = tuple(value[layer].left(keep, f"{below}.{layer}") for layer in stay)
        return self.model_copy(update=changes)


class EncoderLayerWidths(Widths):
    """Of one encoder layer: attention heads and feed-forward units."""

    heads: Annotated[int, Of("attention.heads")] = Field(ge=1)
    d_ff: Annotated[int, Of("feed_forward.units")] = Field(ge=1)


class DecoderLayerWidths(Widths):
    """Of one decoder layer, which also has heads that look at the encoder."""

    heads: Annotated[int, Of("self_attention.heads")] = Field(ge=1)
    d_ff: Annotated[int, Of("feed_forward.units")] = Field(ge=1)
    cross_heads: Annotated[int, Of("cross_attention.heads")] = Field(ge=1)


class EncoderWidths(Widths):
    """Of the encoder's stream and each of its layers."""

    width: Annotated[int, Of("width")] = Field(ge=1)
    layers: tuple[EncoderLayerWidths, ...] = Field(min_length=1)


class DecoderWidths(Widths):
    """Of the decoder's stream and each of its layers."""

    width: Annotated[int, Of("width")] = Field(ge=1)
    layers: tuple[DecoderLayerWidths, ...] = Field(min_length=1)


class HeadsConfig(ForecasterConfig):
    """Published keys of every model with attention heads."""

    d_model: int = Field(512, ge=1)
    n_heads: int = Field(8, ge=1)
    head_size: int | None = Field(None, ge=1, description="d_model / n_heads when absent")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.head_size is None and self.d_model % self.n_heads:
            raise ValueError(
                f"n_heads: expected a divisor of d_model ({self.d_model}) or head_size beside it, found {self.n_heads}"
            )
        return self

    @property
    def size_per_head(self) -> int:
        """Features of one head, before and after pruning."""
        return self.head_size or self.d_model // self.n_heads


class EncoderConfig(HeadsConfig):
    """Published keys of an encoder; `encoder` holds what pruning left."""

    d_ff: int = Field(2048, ge=1)
    encoder_layers: int = Field(2, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    activation: Activation = "gelu"
    encoder: EncoderWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        for stack in ("encoder", "decoder"):
            widths, layers = getattr(self, stack, None), getattr(self, f"{stack}_layers", 0)
            if widths is not None and len(widths.layers) != layers:
                raise ValueError(f"{stack}_layers: expected {len(widths.layers)}, as {stack}.layers, found {layers}")
        return self

    @property
    def encoder_widths(self) -> EncoderWidths:
        """The encoder's widths, given or derived."""
        layer = EncoderLayerWidths(heads=self.n_heads, d_ff=self.d_ff)
        return self.encoder or EncoderWidths(width=self.d_model, layers=(layer,) * self.encoder_layers)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; group names are those of the model's groups."""
        encoder = self.encoder_widths.left(keep, "encoder")
        changes = {"head_size": self.size_per_head, "encoder_layers": len(encoder.layers), "encoder": encoder}
        return self.model_copy(update=changes)


class EncoderDecoderConfig(EncoderConfig):
    """Published keys of an encoder-decoder Transformer; `encoder` and `decoder` hold what pruning left."""

    decoder_layers: int = Field(1, ge=1)
    decoder: DecoderWidths | None = Field(None, description="widths after pruning; from the keys above when absent")

    @property
    def decoder_widths(self) -> DecoderWidths:
        """The decoder's widths, given or derived."""
        layer = DecoderLayerWidths(heads=self.n_heads, cross_heads=self.n_heads, d_ff=self.d_ff)
        return self.decoder or DecoderWidths(width=self.d_model, layers=(layer,) * self.decoder_layers)

    def shrunk(self, keep: Keep) -> Self:
        """Returns the config with only the kept units; group names are those of the model's groups."""
        decoder = self.decoder_widths.left(keep, "decoder")
        changes = {"decoder_layers": len(decoder.layers), "decoder": decoder}
        return super().shrunk(keep).model_copy(update=changes)
