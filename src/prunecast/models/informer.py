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

ProbSparse attention (section 3.1, equation 4, algorithm 1): only the queries that stand out attend, the others take the
mean of what there is. How far a query stands out is its largest score against a sample of the keys less the mean of
those scores. The published code samples the keys anew on every call; here a layer draws its sample once, when it is
built, and keeps it in the state dict: a forecast is then a function of its input, in training as in eval mode, and a
checkpoint forecasts tomorrow what it forecasts today.

B batch, L look-back, H horizon, T = label_len + H, C channels, F calendar features and known covariates,
D width of a segment's stream (the encoder layers between two convolutions), E width of the decoder's stream.
In ProbSparse attention: Q queries, S memory steps, H heads that are left, E head size, U sampled keys of a query,
K chosen queries, D width of the querying stream, M width of the memory's stream, R rows of the output that a head
writes to.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import (
    Affine,
    Dropout,
    Linear,
    add_norm,
    first_largest,
    is_plain,
    prob_sparse_attention,
    ring,
    ring_convolution,
    takes_fast_path,
)
from prunecast.models.base import Binding, Keep, Layer, LinearMap, Streams, Units, kept, reads, writes
from prunecast.models.layers.blocks import (
    Attention,
    DataEmbedding,
    DecoderLayer,
    EncoderLayer,
    as_kernel,
    kernel_matrix,
    last,
    neighbours,
)
from prunecast.models.layers.transforms import BatchNorm
from prunecast.models.layers.widths import (
    DecoderLayerWidths,
    DecoderWidths,
    EncoderDecoderConfig,
    EncoderLayerWidths,
    EncoderWidths,
    Of,
)
from prunecast.models.transformer import Decoder, EncoderDecoder

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


@dataclass(frozen=True)
class Sampling:
    """Which keys a layer looks at to choose its queries, and how many it chooses.

    Attributes:
        queries: Q.
        steps: S.
        factor: c of the paper: ceil(ln S) times as many keys are sampled, ceil(ln Q) times as many queries chosen.
        anew: whether every call in training draws another sample, as published.
    """

    queries: int
    steps: int
    factor: int
    anew: bool = False

    @property
    def chosen(self) -> int:
        """K: how many queries attend."""
        return _several(self.factor, self.queries)

    def draw(self) -> Tensor:
        """Returns the sampled keys of each query, (Q, U), from torch's default generator."""
        return torch.randint(self.steps, (self.queries, _several(self.factor, self.steps)))


def _several(factor: int, count: int) -> int:
    """Returns factor * ceil(ln count), at most all; at least one, where the published code fails (count 1)."""
    return max(1, min(count, factor * math.ceil(math.log(count))))


@dataclass(frozen=True)
class Heads:
    """The heads of a layer, and what becomes of them.

    Attributes:
        places: of those that are left among the heads of the dense layer, ascending.
        dense: how many heads the dense layer has.
        size: features of one head.
        mixed: whether the layer reads (head, step, feature) memory as (step, width), as most published code does:
            the steps of the first head, laid end to end, fill the first rows of the output, and so on.
        read: how many rows of the output anybody reads: the last ones. Mixed, no other than the last heads write them.
    """

    places: tuple[int, ...]
    dense: int
    size: int
    mixed: bool
    read: int

    @property
    def width(self) -> int:
        """What the output projection reads: mixed, a head that is gone leaves zeros in some rows, not in columns."""
        return (self.dense if self.mixed else len(self.places)) * self.size

    def unread(self, queries: int) -> int:
        """Returns how many of the first heads write no row that is read."""
        first = (queries - self.read) * self.dense // queries if self.mixed else 0
        return bisect_left(self.places, first)

    def slots(self, queries: int) -> list[list[int]]:
        """Returns which step of which head lies where in the rows that are read, mixed: (read, dense).

        Step s of head h, counted among those that are left, has the number h * Q + s; H * Q stands for all that is
        gone.
        """
        numbers = [len(self.places) * queries] * (self.dense * queries)
        for head, place in enumerate(self.places):
            numbers[place * queries : (place + 1) * queries] = range(head * queries, (head + 1) * queries)
        return [numbers[row * self.dense : (row + 1) * self.dense] for row in range(queries - self.read, queries)]


class MixedRows(nn.Module):
    """From heads to the rows of a mixed layer's output, when some of its heads are gone.

    A row in which no head is left holds zeros: its projection is the bias, and is not computed.
    """

    slots: Tensor
    place: Tensor

    def __init__(self, heads: Heads, queries: int) -> None:
        super().__init__()
        rows, self.gone = heads.slots(queries), len(heads.places) * queries
        written = [row for row, numbers in enumerate(rows) if min(numbers) < self.gone]
        number = {row: place for place, row in enumerate(written)}
        places = [number.get(row, len(written)) for row in range(heads.read)]
        self.register_buffer("slots", torch.tensor([rows[row] for row in written]), persistent=False)
        self.register_buffer("place", torch.tensor(places), persistent=False)

    def forward(self, context_BHQE: Tensor, out: Linear) -> Tensor:
        """Returns the projection of the rows that are read, (B, read, D). Heads that write none may be missing."""
        rows_BRW = self._written(context_BHQE)
        projected_BRD = torch.cat([out(rows_BRW), out.bias.expand(len(rows_BRW), 1, -1)], dim=1)
        return projected_BRD.index_select(1, self.place)

    def rows(self, context_BHQE: Tensor) -> Tensor:
        """Returns the rows that are read, those of zeros too, (B, read, W)."""
        rows_BRW = self._written(context_BHQE)
        return torch.cat([rows_BRW, torch.zeros_like(rows_BRW[:, :1])], dim=1).index_select(1, self.place)

    def _written(self, context_BHQE: Tensor) -> Tensor:
        batch, heads, queries, size = context_BHQE.shape
        slots_RN = self.slots - (self.gone - heads * queries)
        context_BNE = torch.cat([context_BHQE.flatten(1, 2), context_BHQE.new_zeros(batch, 1, size)], dim=1)
        return context_BNE.index_select(1, slots_RN.flatten()).view(batch, -1, slots_RN.shape[1] * size)


class ProbSparse(Attention):
    """Attention of the queries that stand out.

    The published code applies no dropout to these attention weights, so neither do we.
    """

    sampled: Tensor

    def __init__(self, width: int, memory_width: int, heads: Heads, sampling: Sampling) -> None:
        super().__init__(width, memory_width, len(heads.places), heads.size, dropout=0.0)
        self.kept, self.sampling = heads, sampling
        self.out = Linear(heads.width, width)
        self.register_buffer("sampled", sampling.draw())
        self.unread = heads.unread(sampling.queries)
        scattered = heads.mixed and self.unread < self.heads < heads.dense
        self.mixed_rows = MixedRows(heads, sampling.queries) if scattered else None

    @property
    def has_no_output(self) -> bool:
        """Whether no head writes a row that is read: then the output is the bias of its projection."""
        return self.unread == self.heads

    def forward(self, x_BQD: Tensor, memory_BSM: Tensor, causal: bool = False, dim: int = 1) -> Tensor:
        """Returns the rows that are read, (B, read, D); all queries take part in the choice.

        Causal: x and the memory are the same steps, and none sees a later one. They lie along dimension 1.
        """
        assert dim == 1, "keys are sampled from steps along dimension 1"
        if self.has_no_output:
            return self.out.bias.expand(x_BQD.shape[0], self.kept.read, -1)
        anew = self.training and self.sampling.anew
        sampled_QU = self.sampling.draw().to(x_BQD.device) if anew else self.sampled
        layers = (self.query, self.key, self.value)
        fast = takes_fast_path(x_BQD, *layers, training=self.training, compiled=True)
        if fast and self._is_expected(x_BQD, memory_BSM, sampled_QU, causal):
            size, chosen, maps = self.head_size, self.sampling.chosen, self._maps()
            return self._project(
                prob_sparse_attention(x_BQD, memory_BSM, maps, sampled_QU, size=size, chosen=chosen, causal=causal)
            )
        if self.training and all(map(is_plain, layers)):  # heads that write no row that is read are left out here too
            query, key, value = self._maps()
            q, k, v = F.linear(x_BQD, *query), F.linear(memory_BSM, *key), F.linear(memory_BSM, *value)
        else:
            q, k, v = self.query(x_BQD), self.key(memory_BSM), self.value(memory_BSM)
        return self._project(self._attend(q, k, v, sampled_QU, causal))

    def _is_expected(self, x_BQD: Tensor, memory_BSM: Tensor, sampled_QU: Tensor, causal: bool) -> bool:
        """Whether kernels, which check no index, find what they look for; if not, plain operators say what is wrong."""
        queries, steps = x_BQD.shape[1], memory_BSM.shape[1]
        there = len(sampled_QU) == queries >= self.sampling.chosen and (queries == steps or not causal)
        return there and int(sampled_QU.min()) >= 0 and int(sampled_QU.max()) < steps

    def _maps(self) -> tuple[Affine, ...]:
        """Returns the maps to queries, keys and values of the heads that write rows that are read."""
        first, layers = self.unread * self.head_size, (self.query, self.key, self.value)
        # all of a map as it is, since the gradient of a slice is a copy
        return tuple((of.weight[first:], of.bias[first:]) if first else (of.weight, of.bias) for of in layers)

    def _attend(self, q_BQW: Tensor, k_BSW: Tensor, v_BSW: Tensor, sampled_QU: Tensor, causal: bool) -> Tensor:
        """Returns what each head makes of each query, (B, H, Q, E), by plain operators."""
        q, k, v = (x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2) for x in (q_BQW, k_BSW, v_BSW))
        chosen_BHK1 = self._chosen(q.detach(), k.detach(), sampled_QU).unsqueeze(3)
        index_BHKE = chosen_BHK1.expand(-1, -1, -1, self.head_size)
        scores_BHKS = (q.gather(2, index_BHKE) * self.head_size**-0.5) @ k.mT
        if causal:
            scores_BHKS = scores_BHKS.masked_fill(torch.arange(k.shape[2], device=k.device) > chosen_BHK1, -torch.inf)
        others_BHQE = v.cumsum(2) if causal else v.mean(2, keepdim=True).expand_as(q)
        return others_BHQE.scatter(2, index_BHKE, scores_BHKS.softmax(dim=3) @ v)

    def _chosen(self, q_BHQE: Tensor, k_BHSE: Tensor, sampled_QU: Tensor) -> Tensor:
        """Returns the queries that stand out, (B, H, K)."""
        # all scores, of which a few are read: one product is cheaper than gathering the features of sampled keys
        seen_BHQU = (q_BHQE @ k_BHSE.mT).gather(3, sampled_QU.expand(*q_BHQE.shape[:2], -1, -1))
        # in a head that pruning emptied all queries stand out alike: then the first ones are chosen
        measure_BHQ = seen_BHQU.amax(3) - seen_BHQU.sum(3) / k_BHSE.shape[2]
        return first_largest(measure_BHQ, self.sampling.chosen)

    def _project(self, context_BHQE: Tensor) -> Tensor:
        read, width = self.kept.read, self.kept.width
        if not self.kept.mixed:
            return cast("Tensor", self.out(context_BHQE[:, :, -read:].transpose(1, 2).flatten(2)))
        if self.mixed_rows is None:
            rows_BRW = last(context_BHQE.flatten(1), read * width).view(-1, read, width)
        elif torch.compiler.is_compiling() or is_plain(self.out):
            return cast("Tensor", self.mixed_rows(context_BHQE, self.out))
        else:  # whoever listens is to hear as many rows as there are in a layer that has all its heads
            rows_BRW = self.mixed_rows.rows(context_BHQE)
        return cast("Tensor", self.out(rows_BRW))

    def streams(self) -> Streams:
        """As for any attention; mixed, heads own no columns of the output projection."""
        own = super().streams()
        return {**own, "out": writes("stream")} if self.kept.mixed else own

    def units(self) -> dict[str, Units]:
        """The heads; mixed, the first may write no row that is read, and what reads them has no columns of theirs."""
        if not self.kept.mixed:
            return super().units()
        return {"heads": Units("head", unused_units=tuple(range(self.unread)), gate=("value",))}

    def unused(self) -> tuple[str, ...]:
        """All but the output's bias, where no head writes a row that is read."""
        if not self.has_no_output:
            return ()
        parts = ("query", "key", "value")
        return (*(f"{part}.{kind}" for part in parts for kind in ("weight", "bias")), "out.weight")


class Stream(NamedTuple):
    """What an attention layer reads."""

    width: int
    steps: int


def _streams(config: InformerConfig) -> list[Stream]:
    """Returns the stream of each segment of the encoder."""
    return [Stream(*pair) for pair in zip(config.encoder_widths.streams, config.segment_steps, strict=True)]


def _prob_sparse(
    config: InformerConfig, stream: Stream, memory: Stream, places: Places, *, mixed: bool, read: int
) -> ProbSparse:
    heads = Heads(places, config.n_heads, config.size_per_head, mixed, read)
    sampling = Sampling(stream.steps, memory.steps, config.factor, config.resample)
    return ProbSparse(stream.width, memory.width, heads, sampling)


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
        # Pooled before ELU, which never changes what is largest, and as an image of one column, channels last as the
        # memory lies: three times as fast as a copy that is not.
        image_BEP1 = self.norm(y_BPE).unsqueeze(2).permute(0, 3, 1, 2)
        return F.elu(F.max_pool2d(image_BEP1, (3, 1), (2, 1), (1, 0)).permute(0, 2, 3, 1).squeeze(2))

    def linear_maps(self) -> dict[str, LinearMap]:
        """Returns the convolution's map."""
        weight = "convolution.weight"
        return {
            "convolution": LinearMap(
                parameters=(weight,),
                bias="convolution.bias",
                features=lambda x_BLD: neighbours(x_BLD).flatten(0, 1).unsqueeze(0),
                matrix=lambda tensors: kernel_matrix(tensors[weight]).unsqueeze(0),
                tensors=lambda matrix_1OI: {weight: as_kernel(matrix_1OI[0])},
            )
        }

    def streams(self) -> Streams:
        """The convolution reads the stream before and writes the one after."""
        return {"convolution": reads("before") | writes("after"), "norm": {"stream": "after"}}


class InformerEncoder(Layer):
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
        placed = ((layer, streams[layer.segment]) for layer in layers)
        attended = (
            (_prob_sparse(config, at, at, layer.places, mixed=config.mix_all, read=at.steps), layer.d_ff)
            for layer, at in placed
        )
        self.layers = nn.ModuleList(EncoderLayer(config, attention, d_ff) for attention, d_ff in attended)
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


class InformerDecoderLayer(DecoderLayer):
    """Causal ProbSparse self-attention, ProbSparse or full attention to the encoder, feed-forward."""

    def __init__(self, config: InformerConfig, widths: InformerDecoderLayerWidths, read: int) -> None:
        """Builds a layer of which the last `read` steps are read."""
        stream, memory = Stream(config.decoder_widths.width, config.label_len + config.horizon), _streams(config)[-1]
        cross_attention: Attention
        if config.cross_attention == "full":
            cross_attention = Attention.of(config, stream.width, widths.cross_heads, memory.width)
            asking = read
        else:
            places, asking = widths.cross_places, stream.steps  # it chooses from all steps
            cross_attention = _prob_sparse(config, stream, memory, places, mixed=config.mix_all, read=read)
        self_attention = _prob_sparse(config, stream, stream, widths.places, mixed=config.mix, read=asking)
        super().__init__(config, self_attention, cross_attention, widths.d_ff)

    def forward(self, x_BTE: Tensor, memory_BLD: Tensor, steps: int) -> Tensor:
        """Returns the last `steps` steps, (B, steps, E); for those before only what the choice of queries needs."""
        attended = self.self_attention(x_BTE, x_BTE, causal=True)  # at all steps if cross attention chooses from them
        x_BTE = add_norm(self.norm1, self.dropout, last(x_BTE, attended.shape[1]), attended)
        last_BSE = add_norm(self.norm2, self.dropout, last(x_BTE, steps), self.cross_attention(x_BTE, memory_BLD))
        return add_norm(self.norm3, self.dropout, last_BSE, self.feed_forward(last_BSE))


class Informer(EncoderDecoder):
    """The published encoder-decoder and its variants; every width is in its config."""

    Config = InformerConfig
    encoder: InformerEncoder

    def __init__(self, config: InformerConfig) -> None:
        widths, steps = config.decoder_widths.layers, config.label_len + config.horizon
        read = [steps] * (len(widths) - 1) + [config.horizon]
        layers = (InformerDecoderLayer(config, *pair) for pair in zip(widths, read, strict=True))
        super().__init__(config, InformerEncoder(config), Decoder(config, layers, bias=config.embedding_bias))

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
