"""Inverted dropout that draws what it drops instead of one number per element, and what shares a pass with it.

R rows, D width of a stream, F features between the layers of a feed-forward block, P parts of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd as DropoutOfTorch

from prunecast.kernels.base import run, takes_fast_path
from prunecast.kernels.products import Linear, linear


class Dropout(nn.Module):
    """Zeroes each element with probability `p` in training and divides the others by 1 - p.

    The same distribution as `nn.Dropout`; another sequence of random numbers on the processor.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Returns x itself in eval mode, x with dropped elements in training."""
        if not self.training or self.p == 0:
            return x
        if not takes_fast_path(x):  # a compiled graph draws its mask inside
            return F.dropout(x, self.p)
        return cast("Tensor", _Dropout.apply(x, self.p))  # type: ignore[no-untyped-call]

    def added(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns x + dropout(y), of two tensors of one shape: in training with a pass over memory less."""
        if self.training and self.p and takes_fast_path(x):
            return cast("Tensor", _Added.apply(x, y, self.p))  # type: ignore[no-untyped-call]
        return x + cast("Tensor", self(y))

    def extra_repr(self) -> str:
        """Returns what `print` shows between the brackets."""
        return f"p={self.p}"


@contextmanager
def dropout_set(model: nn.Module, p: float | None) -> Iterator[None]:
    """Layers that drop out, ours and torch's, have probability p meanwhile; None, or an own 0, leaves them alone.

    What drops out inside another layer of torch (`nn.MultiheadAttention`, `nn.LSTM`) is not reached.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout | DropoutOfTorch)]
    before = [layer.p for layer in layers]
    try:
        for layer, own in zip(layers, before, strict=True):
            layer.p = own if p is None or own == 0 else p
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.p = own


def add_norm(norm: nn.LayerNorm, dropout: Dropout, x: Tensor, y: Tensor) -> Tensor:
    """Returns norm(x + dropout(y)), of two tensors of one shape (..., D)."""
    fits = dropout.training and dropout.p > 0 and x.shape == y.shape
    # the kernel knows a norm of the last dimension, with weight and bias
    fits = fits and norm.normalized_shape == x.shape[-1:] and norm.weight is not None and norm.bias is not None
    if fits and takes_fast_path(x, norm, dropout, compiled=True) and takes_fast_path(y, compiled=True):
        normed = _AddAndNorm.apply(x, y, norm.weight, norm.bias, norm.eps, dropout.p)  # type: ignore[no-untyped-call]
    else:
        normed = norm(dropout.added(x, y))
    return cast("Tensor", normed)


def feed_forward(
    up: Linear, activation: Callable[[Tensor], Tensor], dropout: Dropout, down: Linear, x: Tensor
) -> Tensor:
    """Returns down(dropout(activation(up(x)))), (..., D); the fast path knows GELU and ReLU."""
    fast = up.training and takes_fast_path(x, up, dropout, down, compiled=True) and activation in {F.gelu, F.relu}
    if not fast:
        return cast("Tensor", down(dropout(activation(up(x)))))
    p, hidden = dropout.p if dropout.training else 0.0, up.without_bias(x)
    bias_F = hidden.new_zeros(up.out_features) if up.bias is None else up.bias
    kept = _ActivationAndDropout.apply(hidden, bias_F, activation is F.gelu, p)  # type: ignore[no-untyped-call]
    return linear(kept, down.weight * (1 / (1 - p)), down.bias)  # what is kept is not yet divided by 1 - p


def dropped_positions(count: int, p: float) -> Tensor:
    """Returns the sorted positions among `count` that independent draws with probability p hit (int64).

    The distance from one hit to the next is geometric, so p * count random numbers do instead of count: at
    p = 0.05 about 1 ms instead of 34 ms for 5.3 million elements. Drawn from torch's default generator;
    the probability is right to 2**-24, the resolution of a uniform float32.
    """
    if p == 0:
        return torch.empty(0, dtype=torch.int64)
    from prunecast.kernels.compiled import place

    expected = count * p
    draws = int(expected + 6 * math.sqrt(expected)) + 16  # too few once in 10**9 calls
    uniform = torch.rand(draws, dtype=torch.float32)
    while True:
        positions = torch.empty(len(uniform), dtype=torch.int64)
        hits = run(place, uniform, 1 / math.log1p(-p), count, positions)
        if hits >= 0:
            return positions[:hits]
        uniform = torch.cat([uniform, torch.rand(draws, dtype=torch.float32)])


def zero_at(x: Tensor, positions: Tensor) -> Tensor:
    """Zeroes the positions of a contiguous tensor, counted row by row, in place."""
    x.view(-1).index_fill_(0, positions, 0)
    return x


class _Dropout(torch.autograd.Function):
    """Keeps only the positions that were hit: 0.4 bytes per element at p = 0.05 where a mask takes one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        positions = dropped_positions(x.numel(), p)
        ctx.save_for_backward(positions)
        ctx.scale = 1 / (1 - p)
        return zero_at(x.contiguous() * ctx.scale, positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (positions,) = ctx.saved_tensors
        return zero_at(gradient.contiguous() * ctx.scale, positions), None


class _Added(torch.autograd.Function):
    """x + y / (1 - p), with x alone where y was hit: positions are set right after one pass over both."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, p: float) -> Tensor:
        positions, x = dropped_positions(x.numel(), p), x.contiguous()
        ctx.save_for_backward(positions)
        ctx.scale = 1 / (1 - p)
        total = torch.add(x, y.contiguous(), alpha=ctx.scale)
        total.view(-1).index_copy_(0, positions, x.view(-1).index_select(0, positions).to(total.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (positions,) = ctx.saved_tensors
        return gradient, zero_at(gradient.contiguous() * ctx.scale, positions), None


class _AddAndNorm(torch.autograd.Function):
    """Dropout, addition and normalisation in one pass over memory, and one back."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take positions only
        ctx: Any, x: Tensor, y: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float, p: float
    ) -> Tensor:
        from prunecast.kernels import compiled

        x_RD, y_RD = (tensor.contiguous().view(-1, len(weight_D)) for tensor in (x, y))
        dropped, ctx.scale = dropped_positions(x.numel(), p), 1 / (1 - p)
        normal_RD, result_RD, deviation_R = torch.empty_like(x_RD), torch.empty_like(x_RD), x.new_empty(len(x_RD))
        known = (x_RD, y_RD, dropped, ctx.scale, weight_D, bias_D, epsilon)
        run(compiled.add_norm_rows, *known, normal_RD, deviation_R, result_RD)
        ctx.save_for_backward(normal_RD, deviation_R, weight_D, dropped)
        return result_RD.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from prunecast.kernels import compiled

        normal_RD, deviation_R, weight_D, dropped = ctx.saved_tensors
        d_x_RD, d_y_RD = torch.empty_like(normal_RD), torch.empty_like(normal_RD)
        d_weight_PD, d_bias_PD = normal_RD.new_empty(2, compiled.parts(*normal_RD.shape), len(weight_D))
        known = (gradient.contiguous().view(normal_RD.shape), normal_RD, deviation_R, weight_D, dropped, ctx.scale)
        run(compiled.add_norm_backward, *known, d_x_RD, d_y_RD, d_weight_PD, d_bias_PD)
        shape = gradient.shape
        return d_x_RD.view(shape), d_y_RD.view(shape), d_weight_PD.sum(0), d_bias_PD.sum(0), None, None


class _ActivationAndDropout(torch.autograd.Function):
    """Bias, activation and dropout without the division by 1 - p, which the weights that follow can take over.

    One pass over the widest tensors of a step, and a product on the way back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_F: Tensor, gelu: bool, p: float) -> Tensor:
        from prunecast.kernels.compiled import activate

        x_RF = x.contiguous().view(-1, len(bias_F))
        y_RF, slope_RF = torch.empty_like(x_RF), torch.empty_like(x_RF)
        run(activate, x_RF, bias_F, gelu, dropped_positions(x.numel(), p), y_RF, slope_RF)
        ctx.save_for_backward(slope_RF)
        return y_RF.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (slope_RF,) = ctx.saved_tensors
        d_x_RF = gradient.reshape(slope_RF.shape) * slope_RF
        return d_x_RF.view(gradient.shape), d_x_RF.sum(0), None, None
