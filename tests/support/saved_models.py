"""Small saved models and windows for the tests of measuring and exporting."""

from __future__ import annotations

from typing import Any

import torch

from prunecast.batch import Batch
from prunecast.models.base import build, config_from
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts

TRANSFORMER = {"name": "transformer", "d_model": 16, "n_heads": 2, "d_ff": 24, "encoder_layers": 1}
SIZES = {"lookback": 24, "horizon": 12, "label_len": 6, "channels": 3}


def saved_model(seed: int = 1, **values: Any) -> SavedModel:
    """Returns an untrained model with metadata, scaler and all."""
    config = config_from(SIZES | values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(config).eval()
        for parameter in model.parameters():  # no bias and no norm at its special starting value
            parameter.data += 0.02 * torch.randn_like(parameter)
    channels = tuple("abcdefg"[: config.channels])
    metadata = ModelMetadata(
        model=config.model_dump(mode="json"),
        channels=channels,
        targets=tuple(channels[target] for target in config.targets or range(config.channels)),
        scaler=ScalerFacts(mean=(10.0, -3.0, 0.5)[: config.channels], std=(4.0, 0.5, 2.0)[: config.channels]),
        dense_parameters=sum(parameter.numel() for parameter in model.parameters()),
        data=DataSource(name="made-up", sha256="0" * 64),
    )
    return SavedModel(model, metadata)


def windows(saved: SavedModel, count: int = 5) -> Batch:
    """Returns random windows in standardised units."""
    config, generator = saved.model.config, torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    return Batch(
        normal(config.lookback, config.channels),
        normal(config.horizon, config.outputs),
        normal(config.lookback, config.marks),
        normal(config.label_len + config.horizon, config.marks),
    )
