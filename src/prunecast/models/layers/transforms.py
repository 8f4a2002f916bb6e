"""Fixed matrices over the steps of a series: a moving average, and the real Fourier transform of a fixed length.

As a small matrix a transform needs no FFT of any runtime.

L and Q steps of a series, M bins that are asked for, R bins that may be asked for, P = 2 real and imaginary part.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

ModeSelect = Literal["random", "low"]


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
    forth_rest_PRQ: Tensor
    back_PRQ: Tensor
    back_rest_PRQ: Tensor

    def __init__(self, steps: int, bins: int, gain: float = 1.0) -> None:
        """Prepares the tables.

        Args:
            steps: Q.
            bins: how many may be asked for, from 0, those that the series does not have included.
            gain: factor of the inverse.
        """
        super().__init__()
        forth, back = _tables(steps, bins)
        for name, exact in (("forth", forth), ("back", back * gain)):
            # two numbers in single precision make one in double precision, also on devices that have no other
            first = exact.float()
            self.register_buffer(f"{name}_PRQ", first, persistent=False)
            self.register_buffer(f"{name}_rest_PRQ", (exact - first).float(), persistent=False)

    def forth(self, bins_M: Tensor) -> Tensor:
        """Returns (2M, Q): times a series, the real parts of its bins, then their imaginary parts."""
        return _rows(self.forth_PRQ, self.forth_rest_PRQ, bins_M)

    def back(self, bins_M: Tensor) -> Tensor:
        """Returns (2M, Q): the series that a real part of 1, or an imaginary part of 1, in each bin stands for."""
        return _rows(self.back_PRQ, self.back_rest_PRQ, bins_M)


def chosen_modes(length: int, modes: int, select: ModeSelect) -> Tensor:
    """Returns `modes` of the bins below length / 2 in ascending order: drawn by torch's generator, or the lowest."""
    if select == "low":
        return torch.arange(modes)
    return torch.randperm(length // 2)[:modes].sort().values


def _tables(steps: int, bins: int) -> tuple[Tensor, Tensor]:
    """Returns the tables of the transform and of its inverse, both (P, R + 1, Q); the last row is empty."""
    bin_R, step_Q = torch.arange(bins + 1), torch.arange(steps)
    angle_RQ = (bin_R.unsqueeze(1) * step_Q % steps).double() * (2 * math.pi / steps)
    there_R1 = ((bin_R <= steps // 2) & (bin_R < bins)).double().unsqueeze(1)
    forth_PRQ = torch.stack([angle_RQ.cos(), -angle_RQ.sin()]) * there_R1
    # of a bin and its mirror image one is kept, and counts twice; some bins are their own mirror image
    weight_R1 = torch.where(bin_R * 2 % steps == 0, 1.0, 2.0).double().unsqueeze(1)
    return forth_PRQ, forth_PRQ * weight_R1 / steps


def _rows(table_PRQ: Tensor, rest_PRQ: Tensor, bins_M: Tensor) -> Tensor:
    rows_PMQ = table_PRQ[:, bins_M]
    if table_PRQ.dtype == torch.float64:
        rows_PMQ = rows_PMQ + rest_PRQ[:, bins_M]
    return rows_PMQ.flatten(0, 1)
