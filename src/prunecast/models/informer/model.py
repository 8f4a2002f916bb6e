"""Informer: queries that stand out attend, convolutions between its encoder layers halve the steps.

Zhou et al. 2021, "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting". With the default
keys numerically equal to Time-Series-Library's `Informer`, and so to the one in the FEDformer repository.

| | `cross_attention` | `mix` | `mix_all` | `distil_padding` | `embedding_bias` |
|---|---|---|---|---|---|
| Time-Series-Library, FEDformer repository | prob | true | true | 2 | false |
| Autoformer repository | full | true | true | 2 | false |
| Informer2020, the original | full | true | false | 1 | true |

Not covered are options of the original beyond its default: full attention everywhere, several encoders side by side.

With a single head the first two rows' code lets each window of a batch choose the queries of all of them (a dimension
of size one is dropped before the choice); here each window has its own choice, as the original has.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates,
D width of a segment's stream (the encoder layers between two convolutions), E width of the decoder's stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear, add_norm
from prunecast.models.base import ForecastModel, Group, Keep, Member
from prunecast.models.informer.config import InformerConfig, InformerDecoderLayerWidths, Places, SegmentLayerWidths
from prunecast.models.informer.distilling import Distilling
from prunecast.models.informer.probsparse import Heads, ProbSparse, Sampling
from prunecast.models.layers.attention import Attention
from prunecast.models.layers.blocks import DecoderLayer, EncoderLayer, last, named
from prunecast.models.layers.embedding import DataEmbedding, TokenConvolution
from prunecast.models.layers.groups import inputs, norms, unit_index, weights_of
from prunecast.models.layers.inputs import check_inputs, decoder_input


@dataclass(frozen=True)
class Stream:
    """What an attention layer reads."""

    width: int
    steps: int


def _streams(config: InformerConfig) -> list[Stream]:
    """Returns the stream of each segment of the encoder."""
    return [Stream(*pair) for pair in zip(config.encoder_widths.streams, config.segment_steps, strict=True)]


def _prob_sparse(config: InformerConfig, stream: Stream, memory: Stream, heads: Heads) -> ProbSparse:
    sampling = Sampling(stream.steps, memory.steps, config.factor, config.resample)
    return ProbSparse(stream.width, memory.width, heads, sampling)


def _heads(config: InformerConfig, places: Places, mixed: bool, read: int) -> Heads:
    return Heads(places, config.n_heads, config.size_per_head, mixed, read)


class Encoder(nn.Module):
    """Embeds the look-back and refines it segment by segment, each with half the steps of the one before.

    The layers of all segments are one list, so that one can go without renaming the others; a segment may be left
    without layers.
    """

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        streams, layers = _streams(config), config.encoder_widths.layers
        self.segments = tuple(layer.segment for layer in layers)
        width, bias = streams[0].width, config.embedding_bias
        self.embedding = DataEmbedding(config.channels, config.marks, config.lookback, width, bias=bias)
        self.layers = nn.ModuleList(_encoder_layer(config, layer, streams[layer.segment]) for layer in layers)
        self.distilling = nn.ModuleList(
            Distilling(before.width, after.width, config.distil_padding) for before, after in pairwise(streams)
        )
        self.norm = nn.LayerNorm(streams[-1].width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BLC: Tensor, mark_BLF: Tensor | None) -> Tensor:
        """Returns the memory (B, steps of the last segment, its width) that the decoder looks at."""
        x_BLD = self._segment(0, self.dropout(self.embedding(x_BLC, mark_BLF)))
        for segment, distilling in enumerate(self.distilling, start=1):
            x_BLD = self._segment(segment, distilling(x_BLD))
        return cast("Tensor", self.norm(x_BLD))

    def _segment(self, segment: int, x_BLD: Tensor) -> Tensor:
        for place, layer in zip(self.segments, self.layers, strict=True):
            if place == segment:
                x_BLD = layer(x_BLD)
        return x_BLD


def _encoder_layer(config: InformerConfig, layer: SegmentLayerWidths, stream: Stream) -> EncoderLayer:
    heads = _heads(config, layer.places, config.mix_all, stream.steps)
    return EncoderLayer(config, _prob_sparse(config, stream, stream, heads), layer.d_ff)


class InformerDecoderLayer(DecoderLayer):
    """Causal ProbSparse self-attention, ProbSparse or full attention to the encoder, feed-forward."""

    def forward(self, x_BTE: Tensor, memory_BLD: Tensor, steps: int) -> Tensor:
        """Returns the last `steps` steps, (B, steps, E); for those before only what the choice of queries needs."""
        attended = self.self_attention(x_BTE, x_BTE, causal=True)  # at all steps if cross attention chooses from them
        x_BTE = add_norm(self.norm1, self.dropout, last(x_BTE, attended.shape[1]), attended)
        last_BSE = add_norm(self.norm2, self.dropout, last(x_BTE, steps), self.cross_attention(x_BTE, memory_BLD))
        return add_norm(self.norm3, self.dropout, last_BSE, self.feed_forward(last_BSE))


class Decoder(nn.Module):
    """Embeds the known steps and the empty horizon, and fills the horizon in."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        widths, steps = config.decoder_widths, config.label_len + config.horizon
        self.horizon = config.horizon
        bias = config.embedding_bias
        self.embedding = DataEmbedding(config.channels, config.marks, steps, widths.width, bias=bias)
        read = [steps] * (len(widths.layers) - 1) + [config.horizon]
        self.layers = nn.ModuleList(_decoder_layer(config, *pair) for pair in zip(widths.layers, read, strict=True))
        self.norm = nn.LayerNorm(widths.width)
        self.projection = Linear(widths.width, config.outputs)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTC: Tensor, mark_BTF: Tensor | None, memory_BLD: Tensor) -> Tensor:
        """Returns the forecast (B, H, outputs)."""
        x_BTE = self.dropout(self.embedding(x_BTC, mark_BTF))
        for layer in self.layers[:-1]:
            x_BTE = layer(x_BTE, memory_BLD, x_BTE.shape[1])
        x_BHE = self.layers[-1](x_BTE, memory_BLD, self.horizon)
        return cast("Tensor", self.projection(self.norm(x_BHE)))


def _decoder_layer(config: InformerConfig, layer: InformerDecoderLayerWidths, steps: int) -> InformerDecoderLayer:
    """Returns a layer of which the last `steps` steps are read."""
    stream, memory = Stream(config.decoder_widths.width, config.label_len + config.horizon), _streams(config)[-1]
    if config.cross_attention == "full":
        heads = _heads(config, layer.places, config.mix, steps)
        cross_attention = Attention.of(config, stream.width, layer.cross_heads, memory.width)
    else:
        heads = _heads(config, layer.places, config.mix, stream.steps)
        cross_heads = _heads(config, layer.cross_places, config.mix_all, steps)
        cross_attention = _prob_sparse(config, stream, memory, cross_heads)
    return InformerDecoderLayer(config, _prob_sparse(config, stream, stream, heads), cross_attention, layer.d_ff)


class Informer(ForecastModel):
    """The published encoder-decoder and its variants; every width is in its config."""

    Config = InformerConfig
    uses_marks = True
    config: InformerConfig

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, x_BLC: Tensor, x_mark_BLF: Tensor | None = None, y_mark_BTF: Tensor | None = None) -> Tensor:
        """Returns the forecast (B, H, outputs).

        Raises:
            UserError: when a shape is not the one of the config; marks may be left out only where it has none.
        """
        check_inputs(self.config, x_BLC, x_mark_BLF, y_mark_BTF)
        memory_BLD = self.encoder(x_BLC, x_mark_BLF)
        return cast("Tensor", self.decoder(decoder_input(self.config, x_BLC), y_mark_BTF, memory_BLD))

    def prunable(self) -> tuple[str, ...]:
        """The weights of all linear layers and convolutions that reach the forecast; no bias, no normalisation."""
        dead = set(self.unused_parameters())
        return tuple(name for name in weights_of(self, nn.Linear, nn.Conv1d, TokenConvolution) if name not in dead)

    def output_layer(self) -> tuple[str, ...]:
        """The final projection to channels."""
        return ("decoder.projection.weight",)

    def unused_parameters(self) -> tuple[str, ...]:
        """What attends without being read, once pruning left the last layer none but such heads."""
        attentions = {name: module for name, module in self.named_modules() if isinstance(module, ProbSparse)}
        crossing = attentions.get(f"decoder.layers.{len(self.decoder.layers) - 1}.cross_attention")
        unseen = crossing is not None and crossing.has_no_output and len(self.decoder.layers) == 1
        encoder = [name for name, _ in self.named_parameters() if name.startswith("encoder.")] if unseen else []
        return (
            *encoder,
            *(parameter for name, module in attentions.items() for parameter in module.unused_parameters(name)),
        )

    def groups(self) -> tuple[Group, ...]:
        """Heads and feed-forward units of each layer, the width of each segment and of the decoder, whole layers.

        The channels of a distilling convolution are the widths of the segments before and after it.
        """
        layers = [*named(self.encoder.layers, "encoder.layers"), *named(self.decoder.layers, "decoder.layers")]
        return (
            *(group for name, layer in layers for group in layer.groups(name)),
            *(self._encoder_width(segment) for segment in range(len(self.encoder.distilling) + 1)),
            self._decoder_width(),
            Group("encoder.layers", "layer", len(self.encoder.layers), stack="encoder.layers"),
            Group("decoder.layers", "layer", len(self.decoder.layers), stack="decoder.layers"),
        )

    def _encoder_width(self, segment: int) -> Group:
        layers = list(named(self.encoder.layers, "encoder.layers"))
        here = [pair for pair, place in zip(layers, self.encoder.segments, strict=True) if place == segment]
        members = (
            *self._segment_start(segment),
            *(member for name, layer in here for member in layer.width_members(name)),
            *self._segment_end(segment),
        )
        width = self.config.encoder_widths.streams[segment]
        return Group(f"encoder.width.{segment}", "width", width, members, normalised=True)

    def _segment_start(self, segment: int) -> tuple[Member, ...]:
        if segment == 0:
            return self.encoder.embedding.width_members("encoder.embedding")
        name = f"encoder.distilling.{segment - 1}"
        return cast("Distilling", self.get_submodule(name)).next_width_members(name)

    def _segment_end(self, segment: int) -> tuple[Member, ...]:
        name = f"encoder.distilling.{segment}"
        if segment < len(self.encoder.distilling):
            return cast("Distilling", self.get_submodule(name)).width_members(name)
        memory = (m for name, layer in named(self.decoder.layers, "decoder.layers") for m in layer.memory_members(name))
        return (*norms("encoder.norm", size=self.config.encoder_widths.width), *memory)

    def _decoder_width(self) -> Group:
        width = self.config.decoder_widths.width
        members = (
            *self.decoder.embedding.width_members("decoder.embedding"),
            *(m for name, layer in named(self.decoder.layers, "decoder.layers") for m in layer.width_members(name)),
            *norms("decoder.norm", size=width),
            *inputs("decoder.projection", unit_index(width)),
        )
        # a normalised stream of one unit is constant: all queries of the next layer would stand out alike
        return Group("decoder.width", "width", width, members, normalised=True, minimum=min(2, width))

    def shrunk_config(self, keep: Keep) -> InformerConfig:
        """Returns the config with the widths that `keep` leaves."""
        return self.config.shrunk(keep)
