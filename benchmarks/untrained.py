"""Models that were not trained, as runtimes take them, and noise to call them with: what time asks for and no more."""

from __future__ import annotations

import numpy as np

from prunecast.export.base import Inputs
from prunecast.models.base import ForecastModel, example_inputs
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts


def as_saved(model: ForecastModel) -> SavedModel:
    """Returns a model with the metadata of one that was trained on noise."""
    channels = tuple(f"channel {number}" for number in range(model.config.channels))
    metadata = ModelMetadata(
        model=model.config.model_dump(mode="json"),
        channels=channels,
        targets=channels,
        scaler=ScalerFacts(mean=(0.5,) * len(channels), std=(1.5,) * len(channels)),
        dense_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=DataSource(name="noise", sha256="0" * 64),
    )
    return SavedModel(model, metadata)


def noise(model: ForecastModel) -> Inputs:
    """Returns inputs of a model, of the size that it is exported for."""
    generator, names = np.random.default_rng(1), ("history", "x_mark", "y_mark")
    given = zip(names, example_inputs(model.config), strict=True)
    return {name: generator.normal(size=tuple(tensor.shape)).astype(np.float32) for name, tensor in given}
