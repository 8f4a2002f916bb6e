"""From raw units to raw units: what every artefact does around its model.

B batch, L look-back, H horizon, C channels, F calendar features and known covariates, T = label_len + H, O targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.data.scaler import Scaler
from prunecast.export.base import Offset
from prunecast.models.base import ForecastModel
from prunecast.models.io import ModelMetadata, SavedModel

LARGE_LEVEL = 250.0
"""Means, in deviations, from which an artefact takes values less an offset: as float32 numbers, raw values at that
level are off by 1e-5 deviations, and models amplify it. The published sets stay below."""


class RawForecaster(nn.Module):
    """A forecaster between its scaler and the scaler's inverse."""

    mean_C: Tensor
    std_C: Tensor
    mean_O: Tensor
    std_O: Tensor

    def __init__(self, model: ForecastModel, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean_C", mean_C)
        self.register_buffer("std_C", std_C)
        self.register_buffer("mean_O", model.select(mean_C).clone())
        self.register_buffer("std_O", model.select(std_C).clone())

    def forward(self, history: Tensor, x_mark: Tensor, y_mark: Tensor) -> Tensor:
        """Returns the raw forecast (B, H, O) of a raw history (B, L, C); the marks come as the model takes them."""
        y_BHO: Tensor = self.model((history - self.mean_C) / self.std_C, x_mark, y_mark)
        return y_BHO * self.std_O + self.mean_O


def raw_forecaster(saved: SavedModel) -> RawForecaster:
    """Returns the model in raw units less the offset, in eval mode."""
    scaler, offset_C = saved.metadata.scaler, offset_of(saved.metadata).history
    mean_C = torch.tensor(np.array(scaler.mean) - offset_C).float()
    return RawForecaster(saved.model, mean_C, torch.tensor(scaler.std)).eval()


def offset_of(metadata: ModelMetadata) -> Offset:
    """Returns what is taken off raw values before float32 holds them: the mean of channels with a large level."""
    scaler = Scaler.of(metadata.scaler.mean, metadata.scaler.std)
    offset_C = np.where(np.abs(scaler.mean) > LARGE_LEVEL * scaler.std, scaler.mean, 0.0)
    return Offset(offset_C, offset_C[[metadata.channels.index(target) for target in metadata.targets]])


def artefact_scaler(metadata: ModelMetadata) -> Scaler:
    """Returns the scaler in an artefact: what it undoes is the artefact's own, float32 numbers and all."""
    scaler, offset_C = Scaler.of(metadata.scaler.mean, metadata.scaler.std), offset_of(metadata).history
    rounded = Scaler(scaler.mean - offset_C, scaler.std).rounded()
    return Scaler(rounded.mean + offset_C, rounded.std)


def raw_inputs(metadata: ModelMetadata, batch: Batch) -> Mapping[str, NDArray[np.floating]]:
    """Returns what an artefact takes for a batch in standardised units; in float64 where there is an offset."""
    history = artefact_scaler(metadata).inverse(batch.x_BLC.numpy())
    return {
        "history": history if offset_of(metadata) else history.astype(np.float32),
        "x_mark": batch.x_mark_BLF.numpy(),
        "y_mark": batch.y_mark_BTF.numpy(),
    }
