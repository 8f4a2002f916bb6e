"""The Transformer forecaster: encoder, decoder that writes the whole horizon at once.

Vaswani et al. 2017, "Attention Is All You Need", with the token convolution and the calendar embedding of Informer
(Zhou et al. 2021, appendix B); numerically equal to Time-Series-Library's `Transformer`.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates,
D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, cast

from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear
from prunecast.models.base import ForecastModel, Layer, Streams, Units, check_inputs, decoder_input, reads
from prunecast.models.layers.blocks import Attention, DataEmbedding, DecoderLayer, Encoder, EncoderLayer
from prunecast.models.layers.widths import EncoderDecoderConfig


class TransformerConfig(EncoderDecoderConfig):
    """Defaults are the published run's at paper size."""

    name: Literal["transformer"] = "transformer"


class Decoder(Layer):
    """Embeds the known steps and the empty horizon, and fills the horizon in."""

    def __init__(self, config: EncoderDecoderConfig, layers: Iterable[DecoderLayer], *, bias: bool = False) -> None:
        super().__init__()
        width, steps = config.decoder_widths.width, config.label_len + config.horizon
        self.horizon = config.horizon
        self.embedding = DataEmbedding(config.channels, config.marks, steps, width, bias=bias)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)
        self.projection = Linear(width, config.outputs)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, mark_BTF: Tensor | None, memory_BLD: Tensor) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        x_BTE = self.dropout(self.embedding(x_BTC, mark_BTF))
        for layer in self.layers[:-1]:
            x_BTE = layer(x_BTE, memory_BLD, x_BTE.shape[1])
        # Known steps reach the horizon only through self-attention: after the last one nothing reads them,
        # which saves an eighth of the whole model's work at the published sizes.
        x_BHE = self.layers[-1](x_BTE, memory_BLD, self.horizon)
        return cast("Tensor", self.projection(self.norm(x_BHE)))

    def streams(self) -> Streams:
        """The projection reads the stream."""
        return {"projection": reads("stream")}


class EncoderDecoder(ForecastModel):
    """What Transformer and Informer share: the decoder looks at what the encoder made of the look-back."""

    uses_marks = True
    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, encoder: Layer, decoder: Decoder) -> None:
        super().__init__(config)
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        check_inputs(self.config, x_BLC, x_mark_BLF, y_mark_BTF)
        memory_BLD = self.encoder(x_BLC, x_mark_BLF)
        return cast("Tensor", self.decoder(decoder_input(self.config, x_BLC), y_mark_BTF, memory_BLD))

    def output_layer(self) -> tuple[str, ...]:
        """The final projection to channels."""
        return ("decoder.projection.weight",)


class Transformer(EncoderDecoder):
    """The published encoder-decoder; every width is in its config."""

    Config = TransformerConfig

    def __init__(self, config: EncoderDecoderConfig) -> None:
        widths, ahead = config.encoder_widths, config.decoder_widths
        encoder_layers = (
            EncoderLayer(config, Attention.of(config, widths.width, layer.heads), layer.d_ff) for layer in widths.layers
        )
        decoder_layers = (
            DecoderLayer(
                config,
                Attention.of(config, ahead.width, layer.heads),
                Attention.of(config, ahead.width, layer.cross_heads, widths.width),
                layer.d_ff,
            )
            for layer in ahead.layers
        )
        encoder = Encoder(config, encoder_layers, nn.LayerNorm(widths.width))
        super().__init__(config, encoder, Decoder(config, decoder_layers))

    def streams(self) -> Streams:
        """Two residual streams; the decoder looks at the encoder's."""
        return {
            "encoder": {"stream": "encoder.width"},
            "decoder": {"stream": "decoder.width", "memory": "encoder.width"},
        }

    def units(self) -> dict[str, Units]:
        """The width of both streams, whole layers."""
        width, layers = Units("width"), Units("layer")
        return {"encoder.width": width, "decoder.width": width, "encoder.layers": layers, "decoder.layers": layers}
