"""The position-wise layer of a Transformer block."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.kernels import Dropout, Linear, feed_forward
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
        """Returns down(dropout(activation(up(x)))), (B, L, D)."""
        return feed_forward(self.up, self.activation, self.dropout, self.down, x_BLD)

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
