"""Instance normalisation: each window is forecast in units of its own deviation, around its own mean.

Kim et al. 2022, "Reversible Instance Normalization", without its learned scale; Liu et al. 2022, "Non-stationary
Transformers", section 3.1. What it takes away is given back to the forecast by the caller.

B batch, L look-back, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
"""Added to the variance, as published: a channel that stands still stays zero."""


def standardised(x_BLC: Tensor, correction: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the windows with mean 0 and deviation 1, their means and their deviations (B, 1, C).

    Args:
        x_BLC: the windows.
        correction: subtracted from the count of steps that the squares are divided by.
    """
    variance_B1C, mean_B1C = torch.var_mean(x_BLC, dim=1, correction=correction, keepdim=True)
    mean_B1C, std_B1C = mean_B1C.detach(), (variance_B1C + EPSILON).sqrt()
    return (x_BLC - mean_B1C) / std_B1C, mean_B1C, std_B1C
