"""ProbSparse attention: only the queries that stand out attend, the others take the mean of what there is.

Zhou et al. 2021, "Informer", section 3.1 (equation 4, algorithm 1). How far a query stands out is its largest score
against a sample of the keys less the mean of those scores. The published code samples the keys anew on every call;
here a layer draws its sample once, when it is built, and keeps it in the state dict: a forecast is then a function of
its input, in training as in eval mode, and a checkpoint forecasts tomorrow what it forecasts today.

B batch, Q queries, S memory steps, H heads that are left, E head size, U sampled keys of a query, K chosen queries,
D width of the querying stream, M width of the memory's stream, R rows of the output that a head writes to.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import Affine, Linear, first_largest, is_plain, prob_sparse_attention, takes_fast_path
from prunecast.models.base import Streams, Units, writes
from prunecast.models.layers.blocks import Attention, last


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
        batch, heads, queries, size = context_BHQE.shape
        slots_RN = self.slots - (self.gone - heads * queries)
        context_BNE = torch.cat([context_BHQE.flatten(1, 2), context_BHQE.new_zeros(batch, 1, size)], dim=1)
        rows_BRW = context_BNE.index_select(1, slots_RN.flatten()).view(batch, -1, out.in_features)
        projected_BRD = torch.cat([out(rows_BRW), out.bias.expand(batch, 1, -1)], dim=1)
        return projected_BRD.index_select(1, self.place)


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
        first = self.unread * self.head_size
        query, key, value = (_from(layer, first) for layer in (self.query, self.key, self.value))
        return query, key, value

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
        if self.mixed_rows is not None:
            return cast("Tensor", self.mixed_rows(context_BHQE, self.out))
        return cast("Tensor", self.out(last(context_BHQE.flatten(1), read * width).view(-1, read, width)))

    def streams(self) -> Streams:
        """As for any attention; mixed, heads own no columns of the output projection."""
        own = super().streams()
        return {**own, "out": writes("stream")} if self.kept.mixed else own

    def units(self) -> dict[str, Units]:
        """The heads; mixed, the first may write no row that is read."""
        return {"heads": Units("head", unused_units=tuple(range(self.unread)) if self.kept.mixed else ())}

    def unused(self) -> tuple[str, ...]:
        """All but the output's bias, where no head writes a row that is read."""
        if not self.has_no_output:
            return ()
        parts = ("query", "key", "value")
        return (*(f"{part}.{kind}" for part in parts for kind in ("weight", "bias")), "out.weight")


def _from(layer: Linear, first: int) -> Affine:
    """Returns the map to the outputs from one on; all of it as it is, since the gradient of a slice is a copy."""
    return (layer.weight[first:], layer.bias[first:]) if first else (layer.weight, layer.bias)
