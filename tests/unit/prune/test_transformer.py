"""Pruning a real model, counted by the real counter, to disk and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prunecast.errors import UserError
from prunecast.measure.operations import count_operations, dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel, build, config_from
from prunecast.models.io import DataSource, ModelMetadata, SavedModel, ScalerFacts, load_model, save_model
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import Masks, Pruned
from prunecast.recipe import PruneConfig

SIZES = {"lookback": 24, "horizon": 12, "label_len": 12, "channels": 3}
NARROW = {"d_model": 32, "n_heads": 4, "d_ff": 48, "decoder_layers": 2}


def _model(**values: Any) -> ForecastModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build(config_from(SIZES | values)).eval()


@pytest.fixture(scope="module")
def transformer() -> ForecastModel:
    return _model(name="transformer", **NARROW)


def _prune(model: ForecastModel, masks: Masks | None = None, **prune_section: Any) -> Pruned:
    config = PruneConfig(**prune_section)
    return prune_model(model, config, seed=1, cost=dense_macs, weight_cost=macs_per_weight, masks=masks)


def _forecast(model: ForecastModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, 24, 3), (2, 24, 4), (2, 24, 4))
    with torch.no_grad():
        return model(*(torch.randn(shape, generator=generator) for shape in shapes))


def _through_disk(pruned: Pruned, directory: Path) -> SavedModel:
    metadata = ModelMetadata(
        model=pruned.model.config.model_dump(mode="json"),
        channels=("a", "b", "c"),
        targets=("a", "b", "c"),
        scaler=ScalerFacts(mean=(0, 0, 0), std=(1, 1, 1)),
        dense_parameters=sum(parameter.numel() for parameter in pruned.model.parameters()),
        data=DataSource(name="made-up", sha256="0" * 64),
    )
    save_model(SavedModel(pruned.model, metadata, pruned.masks), directory)
    return load_model(directory)


@pytest.mark.parametrize("sparsity", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("kinds", [("head", "ffn", "width"), ("head", "ffn", "width", "layer")], ids="-".join)
def test_a_structured_pruning_is_as_small_as_it_says(
    transformer: ForecastModel, tmp_path: Path, sparsity: float, kinds: tuple[str, ...]
) -> None:
    pruned = _prune(transformer, method="structured-magnitude", sparsity=sparsity, kinds=kinds)
    dense = dense_macs(transformer.config)
    assert pruned.outcome.realised == dense - dense_macs(pruned.model.config)
    largest_unit = dense / (2 if "layer" in kinds else 32)
    assert abs(pruned.outcome.realised - sparsity * dense) <= largest_unit
    loaded = _through_disk(pruned, tmp_path)
    assert loaded.model.config == pruned.model.config
    assert torch.equal(_forecast(loaded.model), _forecast(pruned.model))


def test_an_unstructured_pruning_goes_to_disk_with_its_masks_and_grows_from_there(
    transformer: ForecastModel, tmp_path: Path
) -> None:
    loaded = _through_disk(_prune(transformer, sparsity=0.6), tmp_path)
    more = _prune(loaded.model, loaded.masks, sparsity=0.9)
    body = [name for name in transformer.prunable() if name not in transformer.output_layer()]
    total = sum(transformer.get_parameter(name).numel() for name in body)
    left = sum(int(more.model.get_parameter(name).count_nonzero()) for name in body)
    assert left == total - round(0.9 * total)


@pytest.mark.parametrize("method", ["magnitude", "magnitude-layer"])
def test_removed_operations_are_those_that_the_counter_misses(
    transformer: ForecastModel, tmp_path: Path, method: str
) -> None:
    pruned = _prune(transformer, method=method, sparsity=0.5, of="operations")
    counted = count_operations(_through_disk(pruned, tmp_path))
    assert counted.dense_macs == pruned.outcome.total
    assert counted.dense_macs - counted.effective_macs == pytest.approx(pruned.outcome.realised, abs=100)
    assert abs(pruned.outcome.realised - pruned.outcome.requested) <= 24


def test_attention_products_cannot_be_removed_weight_by_weight(transformer: ForecastModel) -> None:
    with pytest.raises(UserError, match=r"MACs cannot be met: at most \d+ can go"):
        _prune(transformer, sparsity=0.99, of="operations")


def test_a_linear_model_has_no_units() -> None:
    with pytest.raises(UserError, match="model 'dlinear' has no units of kinds head, ffn, width; use an unstructured"):
        _prune(_model(name="dlinear"), method="structured-magnitude")
