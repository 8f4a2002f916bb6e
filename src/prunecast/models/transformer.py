"""The Transformer forecaster: encoder, decoder that writes the whole horizon at once.

Vaswani et al. 2017, "Attention Is All You Need", with the token convolution and the calendar embedding of Informer
(Zhou et al. 2021, appendix B); numerically equal to Time-Series-Library's `Transformer`.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates,
D width of the encoder's stream, E width of the decoder's stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from prunecast.errors import UserError
from prunecast.models.api import Forecaster, Group, Keep, Member
from prunecast.models.layers.attention import Attention
from prunecast.models.layers.coupling import inputs, norms, unit_index
from prunecast.models.layers.dropout import Dropout
from prunecast.models.layers.embedding import DataEmbedding, TokenConvolution
from prunecast.models.layers.feedforward import FeedForward
from prunecast.models.layers.widths import DecoderLayerWidths, EncoderDecoderConfig, EncoderLayerWidths


class TransformerConfig(EncoderDecoderConfig):
    """Defaults are the published run's at paper size."""

    name: Literal["transformer"] = "transformer"


class EncoderLayer(nn.Module):
    """Self-attention, feed-forward; each added to the stream, which is normalised afterwards."""

    def __init__(self, config: EncoderDecoderConfig, layer: EncoderLayerWidths) -> None:
        super().__init__()
        width = config.encoder_widths.width
        self.attention = Attention(width, width, layer.heads, config.size_per_head, config.dropout)
        self.feed_forward = FeedForward(width, layer.d_ff, config.activation, config.dropout)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        x_BLD = self.norm1(x_BLD + self.dropout(self.attention(x_BLD, x_BLD)))
        return cast("Tensor", self.norm2(x_BLD + self.dropout(self.feed_forward(x_BLD))))

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        heads = self.attention.head_group(f"{name}.attention")
        return (heads, self.feed_forward.unit_group(f"{name}.feed_forward"))

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return (
            *self.attention.width_members(f"{name}.attention"),
            *self.attention.memory_members(f"{name}.attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
            *norms(f"{name}.norm1", f"{name}.norm2", size=self.norm1.normalized_shape[0]),
        )


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, feed-forward; the stream is normalised after each."""

    def __init__(self, config: EncoderDecoderConfig, layer: DecoderLayerWidths) -> None:
        super().__init__()
        width, memory, size = config.decoder_widths.width, config.encoder_widths.width, config.size_per_head
        self.self_attention = Attention(width, width, layer.heads, size, config.dropout)
        self.cross_attention = Attention(width, memory, layer.cross_heads, size, config.dropout)
        self.feed_forward = FeedForward(width, layer.d_ff, config.activation, config.dropout)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTE: Tensor, memory_BLD: Tensor, steps: int) -> Tensor:
        """Returns the last `steps` steps, (B, steps, E); no work is done for those before."""
        last_BSE = x_BTE[:, x_BTE.shape[1] - steps :]
        last_BSE = self.norm1(last_BSE + self.dropout(self.self_attention(last_BSE, x_BTE, causal=True)))
        last_BSE = self.norm2(last_BSE + self.dropout(self.cross_attention(last_BSE, memory_BLD)))
        return cast("Tensor", self.norm3(last_BSE + self.dropout(self.feed_forward(last_BSE))))

    def groups(self, name: str) -> tuple[Group, ...]:
        """Returns the groups inside this layer."""
        return (
            self.self_attention.head_group(f"{name}.self_attention"),
            self.cross_attention.head_group(f"{name}.cross_attention"),
            self.feed_forward.unit_group(f"{name}.feed_forward"),
        )

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the decoder's stream owns here."""
        return (
            *self.self_attention.width_members(f"{name}.self_attention"),
            *self.self_attention.memory_members(f"{name}.self_attention"),
            *self.cross_attention.width_members(f"{name}.cross_attention"),
            *self.feed_forward.width_members(f"{name}.feed_forward"),
            *norms(*(f"{name}.norm{i}" for i in (1, 2, 3)), size=self.norm1.normalized_shape[0]),
        )

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the encoder's stream owns here."""
        return self.cross_attention.memory_members(f"{name}.cross_attention")


class Encoder(nn.Module):
    """Embeds the look-back and refines it layer by layer."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.embedding = DataEmbedding(config.channels, config.marks, config.lookback, widths.width)
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in widths.layers)
        self.norm = nn.LayerNorm(widths.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        """Returns the memory (B, L, D) that the decoder looks at."""
        x_BLD = self.dropout(self.embedding(x_BLC, mark_BLF))
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        return cast("Tensor", self.norm(x_BLD))


class Decoder(nn.Module):
    """Embeds the known steps and the empty horizon, and fills the horizon in."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        widths = config.decoder_widths
        self.horizon = config.horizon
        self.embedding = DataEmbedding(config.channels, config.marks, config.label_len + config.horizon, widths.width)
        self.layers = nn.ModuleList(DecoderLayer(config, layer) for layer in widths.layers)
        self.norm = nn.LayerNorm(widths.width)
        self.projection = nn.Linear(widths.width, config.outputs)
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


class Transformer(Forecaster):
    """The published encoder-decoder; every width is in its config."""

    Config = TransformerConfig
    uses_marks = True
    config: EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs).

        Raises:
            UserError: when a shape is not the one of the config; marks may be left out only where it has none.
        """
        config = self.config
        steps = config.label_len + config.horizon
        _check("x", x_BLC, config.lookback, config.channels)
        _check("x_mark", x_mark_BLF, config.lookback, config.marks)
        _check("y_mark", y_mark_BTF, steps, config.marks)
        memory_BLD = self.encoder(x_BLC, x_mark_BLF)
        known = x_BLC[:, config.lookback - config.label_len :]
        x_BTC = torch.cat([known, x_BLC.new_zeros(x_BLC.shape[0], config.horizon, config.channels)], dim=1)
        return cast("Tensor", self.decoder(x_BTC, y_mark_BTF, memory_BLD))

    def prunable(self) -> tuple[str, ...]:
        """The weights of all linear layers and token convolutions; no bias, no normalisation."""
        kinds = (nn.Linear, TokenConvolution)
        return tuple(f"{name}.weight" for name, module in self.named_modules() if isinstance(module, kinds))

    def output_layer(self) -> tuple[str, ...]:
        """The final projection to channels."""
        return ("decoder.projection.weight",)

    def groups(self) -> tuple[Group, ...]:
        """Heads and feed-forward units of each layer, the width of both streams, whole layers."""
        layers = [*_named(self.encoder.layers, "encoder.layers"), *_named(self.decoder.layers, "decoder.layers")]
        return (
            *(group for name, layer in layers for group in layer.groups(name)),
            self._encoder_width(),
            self._decoder_width(),
            Group("encoder.layers", "layer", len(self.encoder.layers), stack="encoder.layers"),
            Group("decoder.layers", "layer", len(self.decoder.layers), stack="decoder.layers"),
        )

    def _encoder_width(self) -> Group:
        width = self.config.encoder_widths.width
        members = (
            *self.encoder.embedding.width_members("encoder.embedding"),
            *(m for name, layer in _named(self.encoder.layers, "encoder.layers") for m in layer.width_members(name)),
            *norms("encoder.norm", size=width),
            *(m for name, layer in _named(self.decoder.layers, "decoder.layers") for m in layer.memory_members(name)),
        )
        return Group("encoder.width", "width", width, members, normalised=True)

    def _decoder_width(self) -> Group:
        width = self.config.decoder_widths.width
        members = (
            *self.decoder.embedding.width_members("decoder.embedding"),
            *(m for name, layer in _named(self.decoder.layers, "decoder.layers") for m in layer.width_members(name)),
            *norms("decoder.norm", size=width),
            *inputs("decoder.projection", unit_index(width)),
        )
        return Group("decoder.width", "width", width, members, normalised=True)

    def shrunk_config(self, keep: Keep) -> EncoderDecoderConfig:
        """Returns the config with the widths that `keep` leaves."""
        return self.config.shrunk(keep)


def _named(layers: nn.ModuleList, stack: str) -> Iterator[tuple[str, Any]]:
    return ((f"{stack}.{i}", layer) for i, layer in enumerate(layers))


def _check(name: str, tensor: Tensor | None, steps: int, features: int) -> None:
    if tensor is None and features:
        raise UserError(f"{name}: expected calendar features (batch, {steps}, {features}), found none")
    if tensor is not None and tuple(tensor.shape[1:]) != (steps, features):
        raise UserError(f"{name}: expected (batch, {steps}, {features}), found {tuple(tensor.shape)}")
