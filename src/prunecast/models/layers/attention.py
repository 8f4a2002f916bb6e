"""Multi-head attention.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.

B batch, Q queries, S memory steps, H heads, E head size, N = B * H.
Steps may lie along another dimension than 1: what is said of (B, Q, D) holds for (B, C, Q, D) too.
"""

from __future__ import annotations

from typing import Self, cast

from torch import Tensor, nn

from prunecast.kernels import Dropout, Linear, attend, causal_bias, fused_attention, fuses_attention
from prunecast.models.base import Group, Member
from prunecast.models.layers.groups import inputs, outputs, unit_index
from prunecast.models.layers.widths import EncoderConfig


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
        projections = (self.query, self.key, self.value, self.out)
        scale = self.head_size**-0.5
        if fuses_attention(x_BQD, memory_BSD, *projections, training=self.training):
            query, *others = ((layer.weight, layer.bias) for layer in projections)
            maps = ((query[0] * scale, query[1] * scale), *others)
            return fused_attention(
                x_BQD, memory_BSD, maps, self.heads, self.dropout, causal=causal, training=self.training
            )
        q, k, v = self.query(x_BQD) * scale, self.key(memory_BSD), self.value(memory_BSD)
        bias_QS = causal_bias(q, k, dim) if causal else None
        q, k, v = (x.view(*x.shape[:-1], self.heads, -1) for x in (q, k, v))
        mixed = attend(q, k, v, bias_QS, self.dropout, dim=dim, training=self.training)
        return cast("Tensor", self.out(mixed.flatten(-2)))

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
