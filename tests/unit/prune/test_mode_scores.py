"""Energies of modes against what is lost without each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.support.small_models import small_inputs, small_model
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.measure.operations import dense_macs, macs_per_weight
from prunecast.models.base import ForecastModel
from prunecast.models.fedformer import FourierAttention
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import STRUCTURED_TAYLOR, Statistics
from prunecast.prune.mode_scores import mode_energies, mode_energy
from prunecast.prune.shrink import shrink
from prunecast.recipe import PruneConfig


def batch_of(model: ForecastModel, windows: int = 5) -> Batch:
    x, x_mark, y_mark = small_inputs(windows)
    return Batch(x, torch.zeros(windows, model.config.horizon, model.config.outputs), x_mark, y_mark)


def without(model: ForecastModel, group: str, unit: int, size: int) -> ForecastModel:
    return shrink(model, {group: torch.tensor([other for other in range(size) if other != unit])})


@pytest.mark.parametrize("individual", [False, True])
def test_the_energy_of_a_linear_models_mode_is_what_its_forecast_loses(individual: bool) -> None:
    model = small_model("fits", individual=individual)
    batch = batch_of(model)
    energies = mode_energies(model, [batch])
    with torch.no_grad():
        dense = model(*batch[:1])
        for group in model.groups():
            lost = [
                (without(model, group.name, unit, group.size)(*batch[:1]) - dense).square().mean()
                for unit in range(group.size)
            ]
            torch.testing.assert_close(energies[group.name], torch.stack(lost))


@pytest.mark.parametrize("values", [{}, {"complex_tanh": True}])
def test_the_energy_of_an_attentions_mode_is_what_it_loses(values: dict[str, bool]) -> None:
    model = small_model("fedformer", **values)
    batch = batch_of(model)
    heard: dict[str, tuple[Tensor, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, FourierAttention):
            module.register_forward_pre_hook(lambda _, streams, name=name: heard.__setitem__(name, streams))
    energies = mode_energies(model, [batch])
    assert energies.keys() == {group.name for group in model.groups() if group.kind == "mode"}
    for group in (group for group in model.groups() if group.kind == "mode"):
        layers = [name for name in heard if group.name.startswith(attention(model, name).block_name + ".")]
        assert layers
        for unit in range(group.size):
            smaller = without(model, group.name, unit, group.size)
            with torch.no_grad():
                lost = [
                    (attention(smaller, name)(*heard[name]) - attention(model, name)(*heard[name])).square().mean()
                    for name in layers
                ]
            torch.testing.assert_close(energies[group.name][unit], torch.stack(lost).sum())


def attention(model: nn.Module, name: str) -> FourierAttention:
    module = model.get_submodule(name)
    assert isinstance(module, FourierAttention)
    return module


def test_batches_count_by_their_windows() -> None:
    model = small_model("fedformer")
    whole = batch_of(model)
    parts = [Batch(*(part[:2] for part in whole)), Batch(*(part[2:] for part in whole))]
    energies, of_parts = mode_energies(model, [whole]), mode_energies(model.train(), parts)
    assert model.training
    for name, energy in energies.items():
        torch.testing.assert_close(of_parts[name], energy)


def test_other_kinds_are_refused() -> None:
    model = small_model("fedformer")
    with pytest.raises(UserError, match=r"expected prune.kinds \[mode\].*found \['head'\]"):
        mode_energy(model, Statistics(0, [batch_of(model)], kinds=("mode", "head")))


def test_there_is_no_score_without_data() -> None:
    with pytest.raises(UserError, match="expected batches"):
        mode_energy(small_model("fits"), Statistics(0, kinds=("mode",)))


def test_a_method_of_that_score_keeps_the_modes_that_add_most(monkeypatch: pytest.MonkeyPatch) -> None:
    method = replace(STRUCTURED_TAYLOR, score="mode-energy", per_cost=False)
    monkeypatch.setattr("prunecast.prune.methods.STRUCTURED_TAYLOR", method)
    model = small_model("fits")
    config = PruneConfig(method="structured-taylor", kinds=("mode",), sparsity=0.4)
    batch = batch_of(model)
    pruned = prune_model(model, config, seed=0, cost=dense_macs, weight_cost=macs_per_weight, batches=[batch])
    energies = mode_energies(model, [batch])
    for buffer, group in (("read_bins", "read"), ("written_bins", "written")):
        kept = pruned.model.get_buffer(buffer)
        assert len(kept) < len(energies[group])
        assert kept.tolist() == energies[group].topk(len(kept)).indices.sort().values.tolist()
