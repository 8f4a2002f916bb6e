"""Operations of every model: counted alike with weights and without, as torch counts, each by its weight."""

from __future__ import annotations

import pytest
import torch
from tests.support.small_models import small_model
from torch.utils.flop_counter import FlopCounterMode

from prunecast.measure import operations
from prunecast.measure.operations import count_operations, dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, example_inputs
from prunecast.models.io import ModelMetadata, SavedModel, ScalerFacts
from prunecast.prune.apply import prune_model
from prunecast.recipe import PruneConfig
from prunecast.registry import MODELS

RECURRENT = ("lstm",)
"""Torch's own counter knows nothing of recurrent layers."""

for_models = pytest.mark.parametrize("name", MODELS.names())


def model_of(name: str) -> ForecastModel:
    return small_model(name).float()


def saved(model: ForecastModel) -> SavedModel:
    channels = tuple(f"c{number}" for number in range(model.config.channels))
    scaler = ScalerFacts(mean=(0.0,) * len(channels), std=(1.0,) * len(channels))
    values = model.config.model_dump(mode="json")
    return SavedModel(
        model,
        ModelMetadata(model=values, channels=channels, targets=channels, scaler=scaler, dense_parameters=1, data=None),
    )


@for_models
@pytest.mark.parametrize("few", [0, 32], ids=["without values", "with zeros"])
def test_no_value_is_needed_to_count(name: str, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "FEW_CHANNELS", few)
    model = model_of(name)
    assert count_operations(saved(model)).dense_macs == dense_macs.__wrapped__(model.config)


@for_models
def test_torch_counts_the_same(name: str) -> None:
    if name in RECURRENT:
        pytest.skip("torch's own counter knows nothing of recurrent layers")
    model = model_of(name).requires_grad_(False)  # else it stumbles over modules that are given parameters
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*example_inputs(model.config))
    assert counter.get_total_flops() == 2 * count_operations(saved(model)).dense_macs


@for_models
def test_each_product_is_known_by_its_weight(name: str) -> None:
    model = model_of(name)
    weights, costs = {n: model.get_parameter(n) for n in model.prunable()}, macs_per_weight(model)
    assert all(costs[n] > 0 for n in weights), "a weight that could go without saving anything"
    assert not costs.keys() & set(model.unused_parameters())
    whole = count_operations(saved(model))
    assert whole.effective_macs == whole.dense_macs
    with torch.no_grad():
        for weight in weights.values():
            weight.zero_()
    emptied = count_operations(saved(model))
    assert emptied.dense_macs == whole.dense_macs
    gone = sum(costs[n] * weight.numel() for n, weight in weights.items())
    assert whole.dense_macs - emptied.effective_macs == round(gone)


@for_models
def test_a_budget_of_operations_is_what_is_counted_afterwards(name: str) -> None:
    model = model_of(name)
    if not model.prunable():
        pytest.skip(f"{name} has nothing to prune")
    config = PruneConfig(method="magnitude", sparsity=0.3, of="operations", candidates="all")
    pruned = prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight)
    counts = count_operations(saved(pruned.model))
    assert counts.dense_macs - counts.effective_macs == pytest.approx(pruned.outcome.realised, rel=1e-3)
