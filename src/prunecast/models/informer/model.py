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
from torch.nn import functional as F

from prunecast.kernels import Dropout, add_norm, ring, ring_convolution
from prunecast.models.base import Binding, Layer, Streams, Units, reads, writes
from prunecast.models.informer.config import InformerConfig, InformerDecoderLayerWidths, Places, SegmentLayerWidths
from prunecast.models.informer.probsparse import Heads, ProbSparse, Sampling
from prunecast.models.layers.blocks import Attention, DecoderLayer, EncoderLayer, last
from prunecast.models.layers.embedding import DataEmbedding
from prunecast.models.layers.normalization import BatchNorm
from prunecast.models.transformer import Decoder, EncoderDecoder


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


class Distilling(Layer):
    """Convolution, batch normalisation, ELU and max-pooling of a stream (equation 5): it halves the steps.

    B batch, P steps after the convolution, D width of the stream before it, E width of the stream after it.

    The convolution is circular. `padding` is what the published code writes there: 1 keeps the number of steps, 2
    adds one at both ends. Those two are the convolution's last and first step once more, so it need not compute them.
    """

    def __init__(self, width: int, next_width: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.convolution = nn.Conv1d(width, next_width, 3)
        self.norm = BatchNorm(next_width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, `distilled_steps`, E)."""
        bias_E = cast("Tensor", self.convolution.bias)
        y_BPE = ring_convolution(x_BLD, self.convolution.weight, bias_E)
        for _ in range(self.padding - 1):
            y_BPE = ring(y_BPE)
        return F.elu(_pooled(self.norm(y_BPE)))

    def streams(self) -> Streams:
        """The convolution reads the stream before and writes the one after."""
        return {"convolution": reads("before") | writes("after"), "norm": {"stream": "after"}}


def _pooled(x_BPE: Tensor) -> Tensor:
    """Returns the largest of every second step and its neighbours; ELU never changes which one that is.

    Pooled as an image of one column, channels last as the memory lies: three times as fast as a copy that is not.
    """
    image_BEP1 = x_BPE.unsqueeze(2).permute(0, 3, 1, 2)
    return F.max_pool2d(image_BEP1, (3, 1), (2, 1), (1, 0)).permute(0, 2, 3, 1).squeeze(2)


class Encoder(Layer):
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

    def streams(self) -> Streams:
        """A stream for each segment; a distilling convolution leads from one to the next."""
        found: dict[str, Binding] = {"embedding": {"stream": "width.0"}}
        for segment in range(len(self.distilling) + 1):
            width = f"width.{segment}"
            layers = [f"layers.{layer}" for layer, place in enumerate(self.segments) if place == segment]
            found |= {layer: {"stream": width} for layer in layers}
            if segment < len(self.distilling):
                found[f"distilling.{segment}"] = {"before": width, "after": f"width.{segment + 1}"}
        return {**found, "norm": {"stream": f"width.{len(self.distilling)}"}}


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


class Informer(EncoderDecoder):
    """The published encoder-decoder and its variants; every width is in its config."""

    Config = InformerConfig
    encoder: Encoder

    def __init__(self, config: InformerConfig) -> None:
        widths, steps = config.decoder_widths.layers, config.label_len + config.horizon
        read = [steps] * (len(widths) - 1) + [config.horizon]
        layers = (_decoder_layer(config, *pair) for pair in zip(widths, read, strict=True))
        super().__init__(config, Encoder(config), Decoder(config, layers, bias=config.embedding_bias))

    def streams(self) -> Streams:
        """A residual stream for each segment of the encoder, of which the decoder looks at the last, and its own."""
        segments: Binding = {f"width.{segment}": f"encoder.width.{segment}" for segment in range(self._segments)}
        memory = f"encoder.width.{self._segments - 1}"
        return {"encoder": segments, "decoder": {"stream": "decoder.width", "memory": memory}}

    def units(self) -> dict[str, Units]:
        """The width of each segment and of the decoder, whole layers."""
        return {
            **{f"encoder.width.{segment}": Units("width") for segment in range(self._segments)},
            # a normalised stream of one unit is constant: all queries of the next layer would stand out alike
            "decoder.width": Units("width", minimum=2),
            "encoder.layers": Units("layer"),
            "decoder.layers": Units("layer"),
        }

    def unused(self) -> tuple[str, ...]:
        """The encoder, once pruning left the only attention to it none but heads that are not read."""
        crossing = self.decoder.layers[-1].cross_attention
        unseen = isinstance(crossing, ProbSparse) and crossing.has_no_output and len(self.decoder.layers) == 1
        return tuple(f"encoder.{name}" for name, _ in self.encoder.named_parameters()) if unseen else ()

    @property
    def _segments(self) -> int:
        return len(self.encoder.distilling) + 1
