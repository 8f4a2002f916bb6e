"""The position-wise layer of a Transformer block."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunecast import kernels
from prunecast.kernels.dropout import Dropout, dropped_positions
from prunecast.kernels.linear import Linear, has_hooks, is_plain, linear
from prunecast.models.base import Group, Member
from prunecast.models.layers.groups import inputs, outputs, unit_index

Activation = Literal["gelu", "relu"]


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear: what the published models write as convolutions of width one."""

    def __init__(self, width: int, hidden: int, activation: Activation, dropout: float, *, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(width, hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)
        self.dropout = Dropout(dropout)
        self.activation = F.gelu if activation == "gelu" else F.relu

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Returns (B, L, D)."""
        if self.training and kernels.suit(x_BLD) and self._is_plain:
            return self._forward_fast(x_BLD)
        return cast("Tensor", self.down(self.dropout(self.activation(self.up(x_BLD)))))

    def _forward_fast(self, x_BLD: Tensor) -> Tensor:
        p, hidden_BLF = self.dropout.p if self.dropout.training else 0.0, self.up.without_bias(x_BLD)
        bias_F = self.up.bias if self._biased else hidden_BLF.new_zeros(self.up.out_features)
        kept_BLF = _ActivationAndDropout.apply(hidden_BLF, bias_F, self.activation is F.gelu, p)  # type: ignore[no-untyped-call]
        return linear(kept_BLF, self.down.weight * (1 / (1 - p)), self.down.bias)

    def unit_group(self, name: str) -> Group:
        """Returns the group of hidden units."""
        index = unit_index(self.up.out_features)
        members = (*outputs(f"{name}.up", index, bias=self._biased), *inputs(f"{name}.down", index))
        return Group(f"{name}.units", "ffn", self.up.out_features, members)

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        index = unit_index(self.up.in_features)
        return (*inputs(f"{name}.up", index), *outputs(f"{name}.down", index, bias=self._biased))

    @property
    def _is_plain(self) -> bool:
        return is_plain(self.up) and is_plain(self.down) and not has_hooks(self.dropout)

    @property
    def _biased(self) -> bool:
        return self.up.bias is not None


class _ActivationAndDropout(torch.autograd.Function):
    """Bias, activation and dropout without the division by 1 - p, which the weights that follow can take over.

    One pass over the widest tensors of a step, and a product on the way back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_F: Tensor, gelu: bool, p: float) -> Tensor:
        from prunecast.kernels.activation import activate

        x_RF = x.contiguous().view(-1, len(bias_F))
        y_RF, slope_RF = torch.empty_like(x_RF), torch.empty_like(x_RF)
        kernels.run(activate, x_RF, bias_F, gelu, dropped_positions(x.numel(), p), y_RF, slope_RF)
        ctx.save_for_backward(slope_RF)
        return y_RF.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (slope_RF,) = ctx.saved_tensors
        d_x_RF = gradient.reshape(slope_RF.shape) * slope_RF
        return d_x_RF.view(gradient.shape), d_x_RF.sum(0), None, None
