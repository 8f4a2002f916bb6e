"""Multi-head attention: fused in eval mode, cache-sized pieces with sparse dropout in training.

B batch, Q queries, S memory steps, H heads, E head size, N = B * H.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunecast.models.api import Group, Member
from prunecast.models.layers.coupling import inputs, outputs, unit_index
from prunecast.models.layers.dropout import dropped_positions, zero_at

PIECE = 2**19
"""Attention weights that are worked on at a time in training: 2 MB, so that they stay in the second-level cache."""


class Attention(nn.Module):
    """Scaled dot-product attention of one stream to another (or to itself), dropout on the attention weights.

    The scale is 1 / sqrt(head size), whatever pruning leaves of the heads.
    """

    def __init__(self, width: int, memory_width: int, heads: int, head_size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size, self.dropout = heads, head_size, dropout
        self.query = nn.Linear(width, heads * head_size)
        self.key = nn.Linear(memory_width, heads * head_size)
        self.value = nn.Linear(memory_width, heads * head_size)
        self.out = nn.Linear(heads * head_size, width)

    def forward(self, x_BQD: Tensor, memory_BSD: Tensor, causal: bool = False) -> Tensor:
        """Returns (B, Q, width). Causal: x are the last Q steps of the memory, and none sees a later one."""
        q, k, v = self.query(x_BQD), self.key(memory_BSD), self.value(memory_BSD)
        mask_QS = causal_mask(q.shape[1], k.shape[1], q.device) if causal else None
        if self.training and q.is_cpu:
            mixed = _TrainingAttention.apply(q, k, v, mask_QS, self.heads, self.dropout)  # type: ignore[no-untyped-call]
            return cast("Tensor", self.out(mixed))
        q, k, v = (part.unflatten(2, (self.heads, self.head_size)).transpose(1, 2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_QS, dropout_p=dropout)
        return cast("Tensor", self.out(mixed.transpose(1, 2).flatten(2)))

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


def causal_mask(queries: int, steps: int, device: torch.device) -> Tensor:
    """Returns (Q, S), True where a query may look; the queries are the last of the steps."""
    return torch.ones(queries, steps, dtype=torch.bool, device=device).tril(steps - queries)


class _TrainingAttention(torch.autograd.Function):
    """softmax(q k' / sqrt(E)), dropout, times v, on the processor.

    What it buys against the plain operators (2 threads, batch 32, 8 heads of 8, 96 x 96):
    - dropout zeroes 5 % of the weights by position, without a mask tensor;
    - heads lie feature-major (N, E, steps), so that the long dimension is contiguous in all five batched
      products: 0.4 ms instead of 1.5 ms for those that would have 8 contiguous columns;
    - pieces of `PIECE` weights are reused in the cache; only the softmax itself is kept for the backward pass;
    - the softmax's backward needs sum(p * dp) per query, which is sum(out * dout): no pass over the weights.
    """

    @staticmethod
    def forward(
        ctx: Any, q_BQD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask_QS: Tensor | None, heads: int, p: float
    ) -> Tensor:
        ctx.heads = heads
        ctx.scale, ctx.boost = (q_BQD.shape[2] // heads) ** -0.5, 1 / (1 - p)
        q, k, v = (_feature_major(x, heads) for x in (q_BQD * ctx.scale, k_BSD, v_BSD * ctx.boost))
        weights_NQS, out = q.new_empty(len(q), q.shape[2], k.shape[2]), torch.empty_like(q)
        bias_QS = None if mask_QS is None else torch.zeros_like(mask_QS, dtype=q.dtype).masked_fill_(~mask_QS, -torch.inf)
        dropped = dropped_positions(weights_NQS.numel(), p)
        for rows, positions in _pieces(weights_NQS, dropped):
            weights = torch.bmm(q[rows].mT, k[rows], out=weights_NQS[rows])
            if bias_QS is not None:
                weights += bias_QS
            torch.softmax(weights, dim=2, out=weights)
            torch.bmm(v[rows], zero_at(weights.clone(), positions).mT, out=out[rows])
        ctx.save_for_backward(q, k, v, out, weights_NQS, dropped)
        return _token_major(out, heads)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient_BQD: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, weights_NQS, dropped = ctx.saved_tensors
        gradient = _feature_major(gradient_BQD, ctx.heads)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        expected_NQ1 = (gradient * out).sum(1).unsqueeze(2)
        for rows, positions in _pieces(weights_NQS, dropped):
            weights = weights_NQS[rows]
            scratch = zero_at(weights.clone(), positions)
            torch.bmm(gradient[rows], scratch, out=dv[rows])
            zero_at(torch.bmm(gradient[rows].mT, v[rows], out=scratch), positions)
            scratch.sub_(expected_NQ1[rows]).mul_(weights)
            torch.bmm(k[rows], scratch.mT, out=dq[rows])
            torch.bmm(q[rows], scratch, out=dk[rows])
        gradients = (_token_major(x, ctx.heads) for x in (dq.mul_(ctx.scale), dk, dv.mul_(ctx.boost)))
        return (*gradients, None, None, None)


def _pieces(weights_NQS: Tensor, dropped: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yields row ranges of about `PIECE` weights, with the dropped positions in each, counted from its start."""
    size = weights_NQS[0].numel()
    step = max(1, PIECE // size)
    starts = range(0, len(weights_NQS), step)
    bounds = torch.searchsorted(dropped, torch.tensor([*(start * size for start in starts), weights_NQS.numel()]))
    for start, first, last in zip(starts, bounds.tolist(), bounds[1:].tolist(), strict=False):
        yield slice(start, start + step), dropped[first:last] - start * size


def _feature_major(x_BLD: Tensor, heads: int) -> Tensor:
    """Returns (B * H, E, L), contiguous."""
    return x_BLD.transpose(1, 2).contiguous().view(len(x_BLD) * heads, -1, x_BLD.shape[1])


def _token_major(x_NEL: Tensor, heads: int) -> Tensor:
    """Returns (B, L, H * E), contiguous."""
    return x_NEL.view(len(x_NEL) // heads, -1, x_NEL.shape[2]).transpose(1, 2).contiguous()
