"""Attention of heads, and ProbSparse attention: plain operators that every runtime takes, and fast paths.

B batch, Q queries, S memory steps, H heads, E head size, N = B * H, W = H * E; K chosen queries, U sampled keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunecast.kernels.base import run, takes_fast_path
from prunecast.kernels.dropout import dropped_positions, zero_at
from prunecast.kernels.products import Affine, to_heads, to_stream

MANY = 16
"""Memory steps from which the fast path pays; with fewer, its products have short rows."""

PIECE = 2**20
"""Attention weights that are worked on at a time in training, at most: 4 MB stay in the cache."""

VECTOR = 16
"""Memory steps below which torch's softmax leaves vector instructions unused: 12 steps take five times as long."""


def causal_bias(q_BQD: Tensor, k_BSD: Tensor, dim: int = 1) -> Tensor:
    """Returns (Q, S) to add to scores: -inf where a query may not look; the queries are the last of the steps."""
    queries, steps = q_BQD.shape[dim], k_BSD.shape[dim]
    return torch.full((queries, steps), -torch.inf, dtype=q_BQD.dtype, device=q_BQD.device).triu(steps - queries + 1)


def attend(
    q_BQHE: Tensor,
    k_BSHE: Tensor,
    v_BSHE: Tensor,
    bias_QS: Tensor | None,
    dropout: nn.Module,
    *,
    dim: int,
    training: bool,
) -> Tensor:
    """Returns dropout(softmax(q k' + bias)) v of each head, (B, Q, H, E).

    Args:
        q_BQHE: queries, scaled.
        k_BSHE: keys.
        v_BSHE: values.
        bias_QS: added to the scores, or None.
        dropout: of the weights, an inverted dropout.
        dim: along which the steps lie; all dimensions before the last two but it are a batch.
        training: whether weights are dropped.
    """
    if k_BSHE.shape[dim] >= MANY and takes_fast_path(q_BQHE, training=training):
        # Feature-major heads (N, E, steps): the long dimension is contiguous in all five batched products of a step,
        # 0.4 ms each instead of 1.5 ms for those that would have 8 contiguous columns (256 x 96 x 96, 2 threads).
        heads = [x.movedim(dim, -1) for x in (q_BQHE, k_BSHE, v_BSHE)]
        batch = torch.broadcast_shapes(*(x.shape[:-1] for x in heads))  # type: ignore[no-untyped-call]
        q, k, v = (x.expand(*batch, -1).reshape(-1, x.shape[-2], x.shape[-1]).contiguous() for x in heads)
        return _attention(q, k, v, bias_QS, dropout, training).view(*batch, -1).movedim(-1, dim)
    q, k, v = (x.movedim(dim, -2) for x in (q_BQHE, k_BSHE, v_BSHE))
    scores = q @ k.mT if bias_QS is None else q @ k.mT + bias_QS
    if scores.shape[-1] < VECTOR and takes_fast_path(scores, training=training):
        weights = _FewSoftmax.apply(scores)  # type: ignore[no-untyped-call]
    else:
        weights = scores.softmax(dim=-1)
    return cast("Tensor", dropout(weights) @ v).movedim(-2, dim)


def fuses_attention(x_BQD: Tensor, memory_BSD: Tensor, *projections: nn.Module, training: bool) -> bool:
    """Returns whether `fused_attention` computes a layer: one with many steps, of as many samples on both sides."""
    if not takes_fast_path(x_BQD, *projections, training=training):
        return False  # first, for a graph of any batch is not asked for sizes
    return x_BQD.dim() == 3 and x_BQD.shape[0] == memory_BSD.shape[0] and memory_BSD.shape[1] >= MANY


def fused_attention(
    x_BQD: Tensor,
    memory_BSD: Tensor,
    maps: tuple[Affine, ...],
    heads: int,
    dropout: nn.Module,
    *,
    causal: bool,
    training: bool,
) -> Tensor:
    """Returns a whole attention layer, (B, Q, D); projections write the layout that its products read.

    Args:
        x_BQD: what asks.
        memory_BSD: what is looked at; the same tensor for self-attention.
        maps: to scaled queries, to keys, to values, and from the heads to the stream.
        heads: H.
        dropout: of the weights, an inverted dropout.
        causal: whether x are the last Q steps of the memory, and none sees a later one.
        training: whether weights are dropped.
    """
    query, key, value, (out_weight, out_bias) = maps
    if x_BQD is memory_BSD:
        q_BWQ, k_BWS, v_BWS = to_heads(x_BQD, query, key, value)
    else:
        (q_BWQ,), (k_BWS, v_BWS) = to_heads(x_BQD, query), to_heads(memory_BSD, key, value)
    bias_QS = causal_bias(q_BWQ, k_BWS, dim=2) if causal else None
    q, k, v = (x.view(-1, x.shape[1] // heads, x.shape[2]) for x in (q_BWQ, k_BWS, v_BWS))
    return to_stream(_attention(q, k, v, bias_QS, dropout, training).view_as(q_BWQ), out_weight, out_bias)


def _attention(  # noqa: PLR0917 - queries, keys, values, and what is done to their scores
    q_NEQ: Tensor, k_NES: Tensor, v_NES: Tensor, bias_QS: Tensor | None, dropout: nn.Module, training: bool
) -> Tensor:
    """Returns (N, E, Q)."""
    p = cast("float", dropout.p) if training else 0.0
    return cast("Tensor", _Attention.apply(q_NEQ, k_NES, v_NES, bias_QS, p))  # type: ignore[no-untyped-call]


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


class _Attention(torch.autograd.Function):
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


def first_largest(x: Tensor, count: int) -> Tensor:
    """Returns where the largest numbers of the last dimension are, (..., count); of equal ones the first."""
    if torch.compiler.is_compiling():  # ONNX defines the operator so that it takes the first
        return x.topk(count).indices
    return x.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def prob_sparse_attention(
    x_BQD: Tensor,
    memory_BSM: Tensor,
    maps: tuple[Affine, ...],
    sampled_QU: Tensor,
    *,
    size: int,
    chosen: int,
    causal: bool,
) -> Tensor:
    """Returns what each head makes of each query, (B, H, Q, E): chosen queries attend, the others take what there is.

    Computed head by head by compiled kernels, which check no index.

    Args:
        x_BQD: what asks.
        memory_BSM: what is looked at; the same tensor for self-attention.
        maps: to queries, to keys and to values.
        sampled_QU: the keys that each query is measured against.
        size: E.
        chosen: K.
        causal: whether no query sees a later step.
    """
    query, key, value = maps
    if x_BQD is memory_BSM:
        asked, memory = _in_heads(x_BQD, size, query, key, value), None
    else:
        asked, memory = _in_heads(x_BQD, size, query), _in_heads(memory_BSM, size, key, value)
    context = _ProbSparse.apply(asked, memory, sampled_QU.contiguous(), chosen, causal)  # type: ignore[no-untyped-call]
    return cast("Tensor", context)


def _in_heads(x_BSD: Tensor, size: int, *maps: Affine) -> Tensor:
    """Returns the heads of each map, one after another, (B, maps * H, E, S)."""
    weights, biases = zip(*maps, strict=True)
    (projected_BWS,) = to_heads(x_BSD, (torch.cat(weights), torch.cat(biases)))
    return projected_BWS.view(len(x_BSD), -1, size, x_BSD.shape[1])


class _ProbSparse(torch.autograd.Function):
    """Heads of queries against heads of keys and values, by compiled kernels.

    Without a memory all three are in what is asked.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take positions only
        ctx: Any, asked_BXEQ: Tensor, memory_BYES: Tensor | None, sampled_QU: Tensor, chosen: int, causal: bool
    ) -> Tensor:
        from prunecast.kernels.compiled_attention import attend_batch

        memory = asked_BXEQ if memory_BYES is None else memory_BYES
        batch, heads, size, queries = asked_BXEQ.shape
        heads = heads // 3 if memory_BYES is None else heads
        chosen_BHK = sampled_QU.new_empty(batch, heads, chosen)
        weights_BHKS = memory.new_empty(batch, heads, chosen, memory.shape[3])
        context_BHQE = memory.new_empty(batch, heads, queries, size)
        run(attend_batch, asked_BXEQ, memory, sampled_QU, causal, chosen_BHK, weights_BHKS, context_BHQE)
        ctx.causal = causal
        ctx.save_for_backward(asked_BXEQ, memory_BYES, chosen_BHK, weights_BHKS, context_BHQE)
        return context_BHQE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHQE: Tensor) -> tuple[Tensor | None, ...]:
        from prunecast.kernels.compiled_attention import attend_backward

        asked, memory, chosen_BHK, weights_BHKS, context_BHQE = ctx.saved_tensors
        d_asked, d_memory = torch.empty_like(asked), None if memory is None else torch.empty_like(memory)
        memory, into = (asked, d_asked) if memory is None else (memory, d_memory)
        saved = (asked, memory, chosen_BHK, ctx.causal, weights_BHKS, context_BHQE)
        run(attend_backward, *saved, gradient_BHQE.contiguous(), d_asked, into)
        return d_asked, d_memory, None, None, None
