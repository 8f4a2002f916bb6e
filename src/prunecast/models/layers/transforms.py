"""What is done to a window or a batch before and between layers: moving average, Fourier transform, normalisation.

Averages and transforms are fixed matrices over the steps of a series, which need no FFT of any runtime.

B batch, L and Q steps of a series, C channels, D width of a stream, M bins that are asked for, R bins that may be asked
for, P = 2 real and imaginary part.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunecast.models.base import Counted, Layer, Streams

EPSILON = 1e-5
"""Added to the variance of a window, as published: a channel that stands still stays zero."""


def window_counts(length: int, window: int) -> Tensor:
    """Returns (L, L): how often step i stands in the centred window around step j, ends repeated beyond the edges.

    Whole numbers, so that the moving average is exact in every precision: divide by `window` afterwards. An even
    window reaches one step further back than ahead.
    """
    offsets = torch.arange(window) - window // 2
    steps = (torch.arange(length).unsqueeze(1) + offsets).clamp(0, length - 1)
    return torch.zeros(length, length).scatter_add_(1, steps, torch.ones(length, window)).T


class FourierTransform(nn.Module):
    """Matrices of any bins of the transform, and of its inverse.

    A bin that the series does not have gives nothing and takes nothing; -1 is such a bin too.
    """

    forth_PRQ: Tensor

    def __init__(self, steps: int, bins: int, gain: float = 1.0) -> None:
        """Prepares the tables.

        Args:
            steps: Q.
            bins: how many may be asked for, from 0, those that the series does not have included.
            gain: factor of the inverse.
        """
        super().__init__()
        bin_R, step_Q = torch.arange(bins + 1), torch.arange(steps)  # the last row is empty
        angle_RQ = (bin_R.unsqueeze(1) * step_Q % steps).double() * (2 * math.pi / steps)
        there_R1 = ((bin_R <= steps // 2) & (bin_R < bins)).double().unsqueeze(1)
        forth_PRQ = torch.stack([angle_RQ.cos(), -angle_RQ.sin()]) * there_R1
        # of a bin and its mirror image one is kept, and counts twice; some bins are their own mirror image
        weight_R1 = torch.where(bin_R * 2 % steps == 0, 1.0, 2.0).double().unsqueeze(1)
        back_PRQ = forth_PRQ * weight_R1 / steps
        for name, exact in (("forth", forth_PRQ), ("back", back_PRQ * gain)):
            # two numbers in single precision make one in double precision, also on devices that have no other
            first = exact.float()
            self.register_buffer(f"{name}_PRQ", first, persistent=False)
            self.register_buffer(f"{name}_rest_PRQ", (exact - first).float(), persistent=False)

    def forth(self, bins_M: Tensor) -> Tensor:
        """Returns (2M, Q): times a series, the real parts of its bins, then their imaginary parts."""
        return self._rows("forth", bins_M)

    def back(self, bins_M: Tensor) -> Tensor:
        """Returns (2M, Q): the series that a real part of 1, or an imaginary part of 1, in each bin stands for."""
        return self._rows("back", bins_M)

    def forth_in_place(self, bins_M: Tensor) -> Tensor:
        """Returns (2R, Q): as `forth`, each bin in the place of its number, and nothing in the places of others."""
        bins = self.forth_PRQ.shape[1]  # the last one is empty, as its number says: -1 is the last place
        bins_R = torch.full((bins,), -1, device=bins_M.device).index_copy(0, bins_M % bins, bins_M)
        return self.forth(bins_R[:-1])

    def _rows(self, name: str, bins_M: Tensor) -> Tensor:
        table_PRQ: Tensor = getattr(self, f"{name}_PRQ")
        rows_PMQ = table_PRQ[:, bins_M]
        if table_PRQ.dtype == torch.float64:
            rows_PMQ = rows_PMQ + getattr(self, f"{name}_rest_PRQ")[:, bins_M]
        return rows_PMQ.flatten(0, 1)


class BatchNorm(Layer):
    """Each unit of a stream with the statistics of the batch in training, with the running ones in eval mode.

    Ioffe and Szegedy 2015, "Batch Normalization", algorithms 1 and 2. The same as `nn.BatchNorm1d`, which also counts
    batches: a number that no forecast reads.
    """

    scales_units = True

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
        if torch.compiler.is_exporting():  # two operators on x; the others are on weights, once
            scale_D = self.weight * (self.variance + EPSILON).rsqrt()
            return x * scale_D + (self.bias - self.mean * scale_D)
        rows = x.flatten(0, -2)
        learns = self.training and len(rows) > 1  # one row has no variance
        y = F.batch_norm(rows, self.mean, self.variance, self.weight, self.bias, learns, self.momentum)
        return y.view_as(x)

    def counted(self) -> Counted:
        """The running statistics."""
        return Counted(self.mean, self.variance, EPSILON)

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
    if torch.compiler.is_exporting():  # the operator would become four times as many
        mean_B1C = x_BLC.mean(dim=1, keepdim=True)
        centred_BLC, steps = x_BLC - mean_B1C, x_BLC.shape[1]
        variance_B1C = centred_BLC.square().sum(dim=1, keepdim=True) / (steps - correction)
        std_B1C = (variance_B1C + EPSILON).sqrt()
        return centred_BLC / std_B1C, mean_B1C, std_B1C
    variance_B1C, mean_B1C = torch.var_mean(x_BLC, dim=1, correction=correction, keepdim=True)
    mean_B1C, std_B1C = mean_B1C.detach(), (variance_B1C + EPSILON).sqrt()
    return (x_BLC - mean_B1C) / std_B1C, mean_B1C, std_B1C
