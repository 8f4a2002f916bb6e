"""The position-wise layer of a Transformer block."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from prunecast.models.api import Group, Member
from prunecast.models.layers.coupling import inputs, outputs, unit_index
from prunecast.models.layers.dropout import Dropout, dropped_positions, zero_at
from prunecast.models.layers.linear import Linear, by_hand, linear

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
        hidden = self.up(x_BLD)
        if self.training and self.dropout.p and by_hand(hidden):
            return self._down_fast(hidden)
        return cast("Tensor", self.down(self.dropout(self.activation(hidden))))

    def _down_fast(self, hidden_BLF: Tensor) -> Tensor:
        p = self.dropout.p
        kept = _ActivationAndDropout.apply(hidden_BLF, self.activation is F.gelu, p)  # type: ignore[no-untyped-call]
        return linear(kept, self.down.weight * (1 / (1 - p)), self.down.bias)

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
    def _biased(self) -> bool:
        return self.up.bias is not None


class _ActivationAndDropout(torch.autograd.Function):
    """Activation and dropout without the division by 1 - p, which the weights that follow can take over.

    Half of a small model's dropout is here, and this spares it two passes over the widest tensors of a step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gelu: bool, p: float) -> Tensor:
        positions = dropped_positions(x.numel(), p)
        ctx.save_for_backward(x, positions)
        ctx.gelu = gelu
        return zero_at((F.gelu(x) if gelu else F.relu(x)).contiguous(), positions)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, positions = ctx.saved_tensors
        aten = torch.ops.aten
        d_x = aten.gelu_backward(gradient, x) if ctx.gelu else aten.threshold_backward(gradient, x, 0)
        return zero_at(d_x.contiguous(), positions), None, None
