"""Products of batches between a stream, whose features are contiguous, and heads, whose steps are.

Attention over many steps is fastest with the steps contiguous (see `attention.py`). A matrix product can read and
write either layout, so a layer's projections go from one to the other on their way, forward and backward, and nothing
is copied: at width 64 that spares a training step of the Transformer or of Informer a tenth of its time.

B batch, S steps, D width of the stream, W width of the heads.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prunecast.kernels.linear import linear, prefers_convolutions

FEW = 2**21
"""Numbers in the gradients of single samples' weights up to which they are written out and summed: 8 MB."""

WIDE = 256
"""Width from which a product outweighs a copy, where another layout has the faster product."""


Affine = tuple[Tensor, Tensor]
"""Weight (outputs, inputs) and bias (outputs) of a linear map."""


def to_heads(x_BSD: Tensor, *maps: Affine) -> tuple[Tensor, ...]:
    """Returns weight @ x.mT + bias, (B, W, S), of each map of the same stream."""
    if _is_other(x_BSD, x_BSD.shape[2]):
        return tuple(linear(x_BSD, *affine).mT.contiguous() for affine in maps)
    weights_WD, biases_W = zip(*maps, strict=True)
    return cast("tuple[Tensor, ...]", _ToHeads.apply(x_BSD, *weights_WD, *biases_W))  # type: ignore[no-untyped-call]


def to_stream(y_BWS: Tensor, weight_DW: Tensor, bias_D: Tensor) -> Tensor:
    """Returns y.mT @ weight.mT + bias, (B, S, D)."""
    if _is_other(y_BWS, y_BWS.shape[1]):
        return linear(y_BWS.mT.contiguous(), weight_DW, bias_D)
    return cast("Tensor", _ToStream.apply(y_BWS, weight_DW, bias_D))  # type: ignore[no-untyped-call]


def _is_other(x: Tensor, width: int) -> bool:
    """Whether the plain product is to be taken, and a copy: it is the faster one, or autocast chooses its type."""
    return (prefers_convolutions(x) and width >= WIDE) or torch.is_autocast_enabled(x.device.type)


class _ToHeads(torch.autograd.Function):
    """Several maps at once: the gradients of their common input are added up as they are computed."""

    @staticmethod
    def forward(ctx: Any, x_BSD: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        half = len(parameters) // 2
        ctx.save_for_backward(x_BSD, *parameters[:half])
        pairs = zip(parameters[:half], parameters[half:], strict=True)
        return tuple(torch.baddbmm(b.unsqueeze(1), _each(w, x_BSD), x_BSD.mT) for w, b in pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_BWS: Tensor) -> tuple[Tensor | None, ...]:
        x_BSD, *weights = ctx.saved_tensors
        d_x_BSD = None
        if ctx.needs_input_grad[0]:
            d_x_BSD = torch.bmm(gradients_BWS[0].mT, _each(weights[0], x_BSD))
            for gradient, weight in zip(gradients_BWS[1:], weights[1:], strict=True):
                d_x_BSD.baddbmm_(gradient.mT, _each(weight, x_BSD))
        d_weights = (_weight_gradient(gradient, x_BSD) for gradient in gradients_BWS)
        return d_x_BSD, *d_weights, *(gradient.sum((0, 2)) for gradient in gradients_BWS)


class _ToStream(torch.autograd.Function):
    """One map, whose gradient comes back feature-major."""

    @staticmethod
    def forward(ctx: Any, y_BWS: Tensor, weight_DW: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(y_BWS, weight_DW)
        return torch.baddbmm(bias_D, y_BWS.mT, _each(weight_DW.mT, y_BWS))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y_BWS, weight_DW = ctx.saved_tensors
        d_y_BWS = torch.bmm(_each(weight_DW.mT, y_BWS), gradient_BSD.mT)
        return d_y_BWS, _weight_gradient(gradient_BSD.mT, y_BWS.mT), gradient_BSD.sum((0, 1))


def _each(weight: Tensor, samples: Tensor) -> Tensor:
    """Returns the weight for each sample, without a copy."""
    return weight.expand(len(samples), -1, -1)


def _weight_gradient(y_BWS: Tensor, x_BSD: Tensor) -> Tensor:
    """Returns the sum of y @ x over all samples, (W, D)."""
    batch, width, steps = y_BWS.shape
    if batch * width * x_BSD.shape[2] <= FEW:
        return torch.bmm(y_BWS, x_BSD).sum(0)
    return y_BWS.transpose(0, 1).reshape(width, batch * steps) @ x_BSD.reshape(batch * steps, -1)
