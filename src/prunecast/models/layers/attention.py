"""Multi-head attention: plain operators that every runtime takes, and a fast training path on the processor.

B batch, Q queries, S memory steps, H heads, E head size, N = B * H.
Steps may lie along another dimension than 1: what is said of (B, Q, D) holds for (B, C, Q, D) too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunecast.kernels.dropout import Dropout, dropped_positions, zero_at
from prunecast.kernels.linear import Linear, is_bulk, is_plain
from prunecast.kernels.projections import Affine, to_heads, to_stream
from prunecast.models.base import Group, Member
from prunecast.models.layers.groups import inputs, outputs, unit_index
from prunecast.models.layers.widths import EncoderConfig

MANY = 16
"""Memory steps from which the fast path pays; with fewer, its products have short rows."""

PIECE = 2**20
"""Attention weights that are worked on at a time in training, at most: 4 MB stay in the cache."""

VECTOR = 16
"""Memory steps below which torch's softmax leaves vector instructions unused: 12 steps take five times as long."""


class Attention(nn.Module):
    """Scaled dot-product attention of one stream to another (or to itself), dropout on the attention weights.

    The scale is 1 / sqrt(head size), whatever pruning leaves of the heads. In training and for batches the projections'
    weights are used without calling these layers, unless somebody listens to them or has put others in their place.
    """

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size, self.dropout = heads, head_size, Dropout(dropout)
        self.query = Linear(width, heads * head_size)
        self.key = Linear(memory_width, heads * head_size)
        self.value = Linear(memory_width, heads * head_size)
        self.out = Linear(heads * head_size, width)

    @classmethod
    def of(cls, config: EncoderConfig, width: int, heads: int, memory_width: int | None = None) -> Self:
        """Returns the attention of a stream to a memory, or to itself, with the config's head size and dropout."""
        return cls(width, memory_width or width, heads, config.size_per_head, config.dropout)

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, causal: bool = False, dim: int = 1) -> Tensor:
        """Returns (B, Q, width).

        Args:
            x_BQD: what asks.
            memory_BSD: what is looked at.
            causal: x are the last Q steps of the memory, and none sees a later one.
            dim: along which the steps lie. All dimensions but it and the last are a batch; where x has one entry and
                the memory many (or the other way round), it is repeated, without being computed again.
        """
        fast = self._is_fast(x_BQD, memory_BSD, dim) and x_BQD.dim() == 3 and len(x_BQD) == len(memory_BSD)
        if fast and all(map(is_plain, (self.query, self.key, self.value, self.out))):
            return self._forward_fast(x_BQD, memory_BSD, causal)
        q, k, v = self.query(x_BQD) * self.head_size**-0.5, self.key(memory_BSD), self.value(memory_BSD)
        bias_QS = causal_bias(q, k, dim) if causal else None
        mix = self._mix_fast if self._is_fast(q, k, dim) else self._mix
        return cast("Tensor", self.out(mix(q, k, v, bias_QS, dim)))

    def _is_fast(self, x: Tensor, memory: Tensor, dim: int) -> bool:
        return memory.shape[dim] >= MANY and is_bulk(x, training=self.training)

    def _forward_fast(self, x_BQD: Tensor, memory_BSD: Tensor, causal: bool) -> Tensor:
        q_BWQ, k_BWS, v_BWS = self._projected(x_BQD, memory_BSD)
        bias_QS = causal_bias(q_BWQ, k_BWS, dim=2) if causal else None
        q, k, v = (x.view(-1, self.head_size, x.shape[2]) for x in (q_BWQ, k_BWS, v_BWS))
        mixed_NEQ = _TrainingAttention.apply(q, k, v, bias_QS, self._p)  # type: ignore[no-untyped-call]
        return to_stream(cast("Tensor", mixed_NEQ).view_as(q_BWQ), self.out.weight, self.out.bias)

    def _projected(self, x_BQD: Tensor, memory_BSD: Tensor) -> tuple[Tensor, ...]:
        """Returns queries, keys and values, (B, W, steps)."""
        query, key, value = self._maps()
        if x_BQD is memory_BSD:
            return to_heads(x_BQD, query, key, value)
        return (*to_heads(x_BQD, query), *to_heads(memory_BSD, key, value))

    def _maps(self) -> tuple[Affine, ...]:
        """Returns the maps to scaled queries, to keys and to values."""
        scale = self.head_size**-0.5
        query = (self.query.weight * scale, self.query.bias * scale)
        return query, (self.key.weight, self.key.bias), (self.value.weight, self.value.bias)

    @property
    def _p(self) -> float:
        return self.dropout.p if self.training else 0.0

    def _mix(self, q_BQD: Tensor, k_BSD: Tensor, v_BSD: Tensor, bias_QS: Tensor | None, dim: int) -> Tensor:
        q, k, v = (self._heads(x).movedim(dim, -2) for x in (q_BQD, k_BSD, v_BSD))
        scores = q @ k.mT if bias_QS is None else q @ k.mT + bias_QS
        return cast("Tensor", self.dropout(self._softmax(scores)) @ v).movedim(-2, dim).flatten(-2)

    def _softmax(self, scores: Tensor) -> Tensor:
        few = scores.shape[-1] < VECTOR and is_bulk(scores, training=self.training)
        weights: Tensor = _FewSoftmax.apply(scores) if few else scores.softmax(dim=-1)  # type: ignore[no-untyped-call]
        return weights

    def _mix_fast(self, q_BQD: Tensor, k_BSD: Tensor, v_BSD: Tensor, bias_QS: Tensor | None, dim: int) -> Tensor:
        # Feature-major heads (N, E, steps): the long dimension is contiguous in all five batched products of a step,
        # 0.4 ms each instead of 1.5 ms for those that would have 8 contiguous columns (256 x 96 x 96, 2 threads).
        heads = [self._heads(x).movedim(dim, -1) for x in (q_BQD, k_BSD, v_BSD)]
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in heads))  # type: ignore[no-untyped-call]
        q, k, v = (x.expand(*batch, -1).reshape(-1, self.head_size, x.shape[-1]).contiguous() for x in heads)
        mixed = _TrainingAttention.apply(q, k, v, bias_QS, self._p)  # type: ignore[no-untyped-call]
        return cast("Tensor", mixed).view(*batch, -1).movedim(-1, dim).flatten(-2)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1)

    def head_group(self, name: str) -> Group:
        """Returns the group of this layer's heads."""
        index = unit_index(self.heads, self.head_size)
        written = (member for part in ("query", "key", "value") for member in outputs(f"{name}.{part}", index))
        return Group(f"{name}.heads", "head", self.heads, (*written, *inputs(f"{name}.out", index)))

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the querying stream owns here."""
        index = unit_index(self.query.in_features)
        return (*inputs(f"{name}.query", index), *outputs(f"{name}.out", index))

    def memory_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the memory's stream owns here."""
        index = unit_index(self.key.in_features)
        return (*inputs(f"{name}.key", index), *inputs(f"{name}.value", index))


def causal_bias(q_BQD: Tensor, k_BSD: Tensor, dim: int = 1) -> Tensor:
    """Returns (Q, S) to add to scores: -inf where a query may not look; the queries are the last of the steps."""
    queries, steps = q_BQD.shape[dim], k_BSD.shape[dim]
    return torch.full((queries, steps), -torch.inf, dtype=q_BQD.dtype, device=q_BQD.device).triu(steps - queries + 1)


class _FewSoftmax(torch.autograd.Function):
    """The softmax over few steps by whole-tensor operators, which use vector instructions whatever the size."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = (scores - scores.amax(-1, keepdim=True)).exp_()
        weights /= weights.sum(-1, keepdim=True)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weights,) = ctx.saved_tensors
        d_scores: Tensor = gradient * weights
        return d_scores.addcmul_(weights, d_scores.sum(-1, keepdim=True), value=-1)


class _TrainingAttention(torch.autograd.Function):
    """softmax(q' k + bias), dropout, times v, for feature-major heads on the processor.

    What it buys against the plain operators:
    - dropout zeroes 5 % of the weights by position, without a mask tensor or a second copy of the weights: what it
      takes away is set aside, since the softmax's gradient needs it;
    - pieces of `PIECE` weights are worked on while they are in the cache; one tensor of that size is kept;
    - the softmax's gradient needs sum(p * dp) per query, which is sum(out * dout): no pass over the weights.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take positions only
        ctx: Any, q_NEQ: Tensor, k_NES: Tensor, v_NES: Tensor, bias_QS: Tensor | None, p: float
    ) -> Tensor:
        v_NES, ctx.boost = v_NES / (1 - p), 1 / (1 - p)
        weights_NQS, out_NEQ = q_NEQ.new_empty(len(q_NEQ), q_NEQ.shape[2], k_NES.shape[2]), torch.empty_like(q_NEQ)
        dropped = dropped_positions(weights_NQS.numel(), p)
        aside = q_NEQ.new_empty(len(dropped))
        for rows, part, positions in _pieces(weights_NQS, dropped):
            weights = torch.bmm(q_NEQ[rows].mT, k_NES[rows], out=weights_NQS[rows])
            if bias_QS is not None:
                weights += bias_QS
            torch.softmax(weights, dim=2, out=weights)
            torch.index_select(weights.view(-1), 0, positions, out=aside[part])
            torch.bmm(v_NES[rows], zero_at(weights, positions).mT, out=out_NEQ[rows])
        ctx.save_for_backward(q_NEQ, k_NES, v_NES, out_NEQ, weights_NQS, dropped, aside)
        return out_NEQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NEQ: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, weights_NQS, dropped, aside = ctx.saved_tensors
        gradient = gradient_NEQ.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        mean_NQ = (gradient * out).sum(1)
        d_aside = aside * -mean_NQ.view(-1)[dropped // k.shape[2]]
        for rows, part, positions in _pieces(weights_NQS, dropped):
            weights = weights_NQS[rows]
            torch.bmm(gradient[rows], weights, out=dv[rows])
            d_scores = torch.bmm(gradient[rows].mT, v[rows])
            d_scores.sub_(mean_NQ[rows].unsqueeze(2)).mul_(weights)
            d_scores.put_(positions, d_aside[part])
            torch.bmm(k[rows], d_scores.mT, out=dq[rows])
            torch.bmm(q[rows], d_scores, out=dk[rows])
        return dq, dk, dv.mul_(ctx.boost), None, None


def _pieces(weights_NQS: Tensor, dropped: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yields equal ranges of rows, the range of `dropped` in each, and those positions counted from its start."""
    size = weights_NQS[0].numel()
    step = -(-len(weights_NQS) // -(-weights_NQS.numel() // PIECE))
    starts = range(0, len(weights_NQS), step)
    bounds = torch.searchsorted(dropped, torch.tensor([*(start * size for start in starts), weights_NQS.numel()]))
    for start, first, last in zip(starts, bounds.tolist(), bounds[1:].tolist(), strict=False):
        yield slice(start, start + step), slice(first, last), dropped[first:last] - start * size
