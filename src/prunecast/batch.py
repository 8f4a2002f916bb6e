"""The value that flows from data to models, training, pruning and measuring.

B batch, L look-back, H horizon, C channels, F calendar features and known covariates, T = label_len + H.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Batch(NamedTuple):
    """Some windows of a series, in standardised units."""

    x_BLC: Tensor
    y_BHC: Tensor
    x_mark_BLF: Tensor
    y_mark_BTF: Tensor


class ModelInputs(Protocol):
    """What a model is called with: a batch, or the rows of a forecast whose truth is not known."""

    @property
    def x_BLC(self) -> Tensor:
        """Standardised history."""

    @property
    def x_mark_BLF(self) -> Tensor:
        """Marks of the history."""

    @property
    def y_mark_BTF(self) -> Tensor:
        """Marks of the last known steps and of the forecast."""
