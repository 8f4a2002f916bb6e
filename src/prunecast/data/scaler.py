"""Standardisation: fitted on the training rows only, computed in float64.

C channels; leading dimensions are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scaler:
    """Mean and standard deviation of each channel; a channel that never changes keeps the deviation 1.

    Attributes:
        mean: (C,) raw units.
        std: (C,) raw units, with N in the denominator as in the published code.
    """

    mean: Array
    std: Array

    @classmethod
    def fit(cls, raw_TC: Array) -> Scaler:
        """Returns the scaler of some rows."""
        # asked of the values: the rounding of a mean gives a constant channel a tiny deviation
        constant = raw_TC.max(axis=0) == raw_TC.min(axis=0)
        return cls(np.where(constant, raw_TC[0], raw_TC.mean(axis=0)), np.where(constant, 1, raw_TC.std(axis=0)))

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> Scaler:
        """Returns the scaler with these values, for instance those of a model's metadata."""
        return cls(np.array(mean, dtype=np.float64), np.array(std, dtype=np.float64))

    def rounded(self) -> Scaler:
        """Returns the scaler as artefacts keep it: mean and deviation are float32 numbers."""
        return Scaler(self.mean.astype(np.float32).astype(np.float64), self.std.astype(np.float32).astype(np.float64))

    def select(self, channels: Sequence[int] | None) -> Scaler:
        """Returns the scaler of some channels, in this order; of all when None."""
        return self if channels is None else Scaler(self.mean[list(channels)], self.std[list(channels)])

    def transform(self, values: NDArray[np.floating]) -> Array:
        """Returns raw values (..., C) in standardised units."""
        return (np.asarray(values, dtype=np.float64) - self.mean) / self.std

    def inverse(self, values: NDArray[np.floating]) -> Array:
        """Returns standardised values (..., C) in raw units."""
        return np.asarray(values, dtype=np.float64) * self.std + self.mean
