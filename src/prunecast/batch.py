"""The value that flows from data to models, training, pruning and measuring.

B batch, L look-back, H horizon, C channels, F calendar features and known covariates, T = label_len + H.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Some windows of a series, in standardised units."""

    x_BLC: Tensor
    y_BHC: Tensor
    x_mark_BLF: Tensor
    y_mark_BTF: Tensor
