"""A sublayer's result is dropped out, added to its stream, and the sum normalised."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from prunecast import kernels
from prunecast.kernels.dropout import Dropout, dropped_positions
from prunecast.kernels.linear import has_hooks


def add_and_norm(norm: nn.LayerNorm, dropout: Dropout, x: Tensor, y: Tensor) -> Tensor:
    """Returns norm(x + dropout(y)), of two tensors of one shape (..., D)."""
    if dropout.training and dropout.p and _is_plain(norm, dropout, x) and x.shape == y.shape and kernels.suit(y):
        normed = _AddAndNorm.apply(x, y, norm.weight, norm.bias, norm.eps, dropout.p)  # type: ignore[no-untyped-call]
    else:
        normed = norm(dropout.added(x, y))
    return cast("Tensor", normed)


def _is_plain(norm: nn.LayerNorm, dropout: Dropout, x: Tensor) -> bool:
    """Whether the norm is one of the last dimension, with weight and bias, and nobody listens to it or the dropout."""
    whole = norm.normalized_shape == x.shape[-1:] and isinstance(norm.weight, Tensor) and isinstance(norm.bias, Tensor)
    return whole and type(norm) is nn.LayerNorm and kernels.suit(x) and not (has_hooks(norm) or has_hooks(dropout))


class _AddAndNorm(torch.autograd.Function):
    """All of it in one pass over memory, and one back."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd functions take positions only
        ctx: Any, x: Tensor, y: Tensor, weight_D: Tensor, bias_D: Tensor, epsilon: float, p: float
    ) -> Tensor:
        from prunecast.kernels import add_norm as residual

        x_RD, y_RD = (tensor.contiguous().view(-1, len(weight_D)) for tensor in (x, y))
        dropped, ctx.scale = dropped_positions(x.numel(), p), 1 / (1 - p)
        normal_RD, result_RD, deviation_R = torch.empty_like(x_RD), torch.empty_like(x_RD), x.new_empty(len(x_RD))
        known = (x_RD, y_RD, dropped, ctx.scale, weight_D, bias_D, epsilon)
        kernels.run(residual.add_and_norm, *known, normal_RD, deviation_R, result_RD)
        ctx.save_for_backward(normal_RD, deviation_R, weight_D, dropped)
        return result_RD.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from prunecast.kernels import add_norm as residual

        normal_RD, deviation_R, weight_D, dropped = ctx.saved_tensors
        d_x_RD, d_y_RD = torch.empty_like(normal_RD), torch.empty_like(normal_RD)
        d_weight_PD, d_bias_PD = normal_RD.new_empty(2, residual.parts(*normal_RD.shape), len(weight_D))
        known = (gradient.contiguous().view(normal_RD.shape), normal_RD, deviation_R, weight_D, dropped, ctx.scale)
        kernels.run(residual.add_and_norm_backward, *known, d_x_RD, d_y_RD, d_weight_PD, d_bias_PD)
        shape = gradient.shape
        return d_x_RD.view(shape), d_y_RD.view(shape), d_weight_PD.sum(0), d_bias_PD.sum(0), None, None
