"""Normalisation over a batch, and over a window.

B batch, L look-back, C channels, D width of a stream.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.models.base import Layer, Streams

EPSILON = 1e-5
"""Added to the variance of a window, as published: a channel that stands still stays zero."""


class BatchNorm(Layer):
    """Each unit of a stream with the statistics of the batch in training, with the running ones in eval mode.

    Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2. The same as `nn.BatchNorm1d`, which also counts
    batches: a number that no forecast reads.
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

    def streams(self) -> Streams:
        """All it has is the stream's."""
        return {tensor: {0: "stream"} for tensor in ("weight", "bias", "mean", "variance")}


def standardised(x_BLC: Tensor, correction: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the windows with mean 0 and deviation 1, their means and their deviations (B, 1, C).

    Each window is forecast in units of its own deviation, around its own mean; what is taken away here is given back
    to the forecast by the caller. Kim et al. 2022, "Reversible Instance Normalization", without its learned scale; Liu
    et al. 2022, "Non-stationary Transformers", section 3.1.

    Args:
        x_BLC: the windows.
        correction: subtracted from the count of steps that the squares are divided by.
    """
    variance_B1C, mean_B1C = torch.var_mean(x_BLC, dim=1, correction=correction, keepdim=True)
    mean_B1C, std_B1C = mean_B1C.detach(), (variance_B1C + EPSILON).sqrt()
    return (x_BLC - mean_B1C) / std_B1C, mean_B1C, std_B1C
