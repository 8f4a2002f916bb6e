"""A model pruned by half in every group at once, taken through saving, loading, fine-tuning and exporting."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.support.onnx_graphs import check_graph
from tests.support.small_models import SIZES, small_model
from torch import Tensor

from prunecast.batch import Batch
from prunecast.export.onnxruntime import RUNTIME
from prunecast.export.parity import check_parity
from prunecast.models.base import ForecastModel
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts, load_model, save_model
from prunecast.prune.shrink import shrink
from prunecast.recipe import FitConfig
from prunecast.train.fit import adam

STEPS, WINDOWS = 3, 8


def half(model: ForecastModel) -> ForecastModel:
    """Returns the model with half of the units of each group, at least the fewest that it needs."""
    generator = torch.Generator().manual_seed(5)
    sizes = {group: max(group.minimum, math.ceil(group.size / 2)) for group in model.groups()}
    keep = {group.name: torch.randperm(group.size, generator=generator)[:n].sort().values for group, n in sizes.items()}
    return shrink(model, keep)


def check_half(name: str, folder: Path, **values: Any) -> None:
    """Checks that half a model is half in every group, comes back from disk, learns, and exports within 1e-4."""
    dense = small_model(name, **values).float()
    model = half(dense)
    before, after = ({group.name: group.size for group in some.groups()} for some in (dense, model))
    assert before.keys() >= after.keys()
    assert all(after[group] == math.ceil(before[group] / 2) for group in after)
    saved = SavedModel(model, _metadata(model, dense))
    save_model(saved, folder)
    loaded = load_model(folder)
    assert loaded.model.config == model.config
    assert torch.equal(_forecast(loaded.model), _forecast(model))
    _learns(loaded.model)
    tuned = replace(saved, model=loaded.model.eval())
    path = RUNTIME.export(tuned, folder / "model.onnx")
    check_graph(path)
    assert check_parity(tuned, RUNTIME.name, path, [_windows(tuned.model)]).max_deviation < 1e-4


def _metadata(model: ForecastModel, dense: ForecastModel) -> ModelMetadata:
    channels = tuple("abc")
    return ModelMetadata(
        model=model.config.model_dump(mode="json"),
        channels=channels,
        targets=tuple(channels[target] for target in model.config.targets or range(3)),
        scaler=ScalerFacts(mean=(0.3, -0.2, 0.5), std=(1.5, 0.5, 2.0)),
        dense_parameters=sum(parameter.numel() for parameter in dense.parameters()),
        data=DataSource(name="made-up", sha256="0" * 64),
    )


def _windows(model: ForecastModel) -> Batch:
    generator = torch.Generator().manual_seed(3)
    known, config = SIZES["label_len"] + SIZES["horizon"], model.config
    shapes = ((SIZES["lookback"], 3), (SIZES["horizon"], config.outputs), (SIZES["lookback"], 4), (known, 4))
    return Batch(*(torch.randn(WINDOWS, *shape, generator=generator) for shape in shapes))


def _forecast(model: ForecastModel) -> Tensor:
    batch = _windows(model)
    with torch.no_grad():
        result: Tensor = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    return result


def _learns(model: ForecastModel) -> None:
    """Takes a few steps of the published optimiser; the error falls and every weight that may be pruned moves."""
    batch, before = _windows(model), {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer, losses = adam(model.train(), FitConfig(learning_rate=1e-2)), []
    torch.manual_seed(1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF) - batch.y_BHC).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    still = {name for name in model.prunable() if torch.equal(model.get_parameter(name), before[name])}
    assert not still
