"""Batch normalisation of a stream, unit by unit.

Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2.

D width of the stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.models.base import Member
from prunecast.models.layers.groups import norms, unit_index


class BatchNorm(nn.Module):
    """Each unit with the statistics of the batch in training, with the running ones in eval mode.

    The same as `nn.BatchNorm1d`, which also counts batches: a number that no forecast reads.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., D) of (..., D); a unit is normalised over all other dimensions."""
        rows = x.flatten(0, -2)
        learns = self.training and len(rows) > 1  # one row has no variance
        y = F.batch_norm(rows, self.mean, self.variance, self.weight, self.bias, learns, self.momentum)
        return y.view_as(x)

    def width_members(self, name: str) -> tuple[Member, ...]:
        """Returns what each unit of the stream owns here."""
        index = unit_index(len(self.weight))
        return (
            *norms(name, size=len(self.weight)),
            *(Member(f"{name}.{part}", 0, index) for part in ("mean", "variance")),
        )
