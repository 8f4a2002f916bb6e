"""A gate of 1 changes nothing, one of 0 removes the unit; slopes are those of finite differences."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from tests.support.small_models import SIZES, prunable_models, small_inputs, small_model
from torch import Tensor

from prunecast.batch import Batch
from prunecast.models.base import ForecastModel
from prunecast.prune.scores import Gates
from prunecast.prune.shrink import shrink
from prunecast.records import GroupKind

KINDS = get_args(GroupKind)


def batch(windows: int = 3) -> Batch:
    x_BLC, x_mark_BLF, y_mark_BTF = small_inputs(windows)
    noise = torch.Generator().manual_seed(5)
    y_BHC = torch.randn(windows, SIZES["horizon"], SIZES["channels"], generator=noise, dtype=torch.double)
    return Batch(x_BLC, y_BHC, x_mark_BLF, y_mark_BTF)


def losses(model: ForecastModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return (model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF) - batch.y_BHC).square().mean((1, 2))


@pytest.mark.parametrize("name", prunable_models())
def test_a_gate_of_zero_removes_the_unit(name: str) -> None:
    model, gates = small_model(name), Gates(small_model(name), KINDS)
    assert {group.name for group in model.groups()} - {group.name for group in gates.groups} == {
        group.name for group in model.groups() if group.kind == "layer" or group.name.endswith("key_modes")
    }
    assert torch.allclose(gates.losses(gates.ones(), batch()), losses(model, batch()), rtol=1e-12)
    for group in gates.groups:
        stays = torch.arange(group.minimum) * (group.size // group.minimum) + (group.size // group.minimum - 1)
        values = gates.ones()
        values[group.name] = torch.zeros(group.size, dtype=torch.double).index_fill(0, stays, 1)
        removed = losses(shrink(model, {group.name: stays}), batch())
        assert torch.allclose(gates.losses(values, batch()), removed, rtol=1e-9), group.name


@pytest.mark.parametrize("name", prunable_models())
def test_slopes_are_those_of_finite_differences_window_by_window(name: str) -> None:
    gates, step = Gates(small_model(name), KINDS), 1e-5
    slopes = gates.slopes(batch())
    for group in gates.groups:
        for unit in {0, group.size - 1}:
            sides = []
            for value in (1 + step, 1 - step):
                values = gates.ones()
                values[group.name][unit] = value
                sides.append(gates.losses(values, batch()))
            expected_N = (sides[0] - sides[1]) / (2 * step)
            assert torch.allclose(slopes[group.name][:, unit], expected_N, rtol=1e-4, atol=1e-8), group.name
