"""Pruning in steps counts from the first model, renews its scores, and takes what one step would where they agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.support.coupled_model import ENTRY, Coupled, coupled, macs, macs_per_weight

from prunecast.errors import UserError
from prunecast.prune.apply import prune_model
from prunecast.prune.methods import Pruned
from prunecast.recipe import PruneConfig
from prunecast.registry import MODELS


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS.entries, "coupled", ENTRY)


def _prune(model: Coupled, **config: Any) -> Pruned:
    return prune_model(model, PruneConfig(**config), seed=1, cost=macs, weight_cost=macs_per_weight)


@pytest.mark.parametrize("step", [0.05, 0.3, 0.5])
def test_single_weights_go_as_at_once(step: float) -> None:
    model = coupled()
    at_once = _prune(model, method="magnitude", sparsity=0.5)
    in_steps = _prune(model, method="magnitude", sparsity=0.5, step=step)
    assert in_steps.outcome == at_once.outcome
    assert all(torch.equal(mask, at_once.masks[name]) for name, mask in in_steps.masks.items())


@pytest.mark.parametrize("step", [0.02, 0.1, 0.6])
def test_units_go_to_the_same_budget(step: float) -> None:
    model = coupled()
    outcome = _prune(model, method="structured-magnitude", sparsity=0.6, step=step).outcome
    whole = macs(model.config)
    assert (outcome.total, outcome.requested) == (whole, round(0.6 * whole))
    pruned = _prune(model, method="structured-magnitude", sparsity=0.6, step=step).model
    assert outcome.realised == whole - macs(pruned.config)
    assert abs(outcome.realised - outcome.requested) / whole < 0.05
    sizes = {group.name: group.size for group in pruned.groups()}
    assert {name: (sizes[name], of) for name, (_, of) in outcome.kept_units.items()} == outcome.kept_units
    assert {group.name: group.size for group in model.groups() if group.kind != "layer"} == {
        name: of for name, (_, of) in outcome.kept_units.items()
    }


def test_scores_are_renewed() -> None:
    """After a unit has gone, what its neighbours own is less, and another may be the weakest."""
    differ = [
        _prune(coupled(seed), method="structured-magnitude", sparsity=0.6, step=0.05).model.state_dict()["head.weight"]
        for seed in range(8)
    ]
    at_once = [
        _prune(coupled(seed), method="structured-magnitude", sparsity=0.6).model.state_dict()["head.weight"]
        for seed in range(8)
    ]
    assert any(one.shape != other.shape or not one.equal(other) for one, other in zip(differ, at_once, strict=True))


def test_layers_go_at_once_only() -> None:
    with pytest.raises(UserError, match="remove layers at once"):
        _prune(coupled(), method="structured-magnitude", sparsity=0.5, step=0.1, kinds=("layer",))
