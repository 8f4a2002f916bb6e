"""Every group of every model: units that are zeroed and units that are cut out give the same forecast."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.small_models import SMALL, prunable_models, small_inputs, small_model
from torch import Tensor, nn

from prunecast.models.base import ForecastModel, Group, Keep
from prunecast.prune.shrink import shrink
from prunecast.registry import MODELS

CASES = [(name, group.name) for name in prunable_models() for group in small_model(name).groups()]


class KeptNorm(nn.Module):
    """Layer normalisation over the kept units alone; the others come out as zero."""

    def __init__(self, norm: nn.LayerNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        stays = x[..., self.kept]
        centred = stays - stays.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt()
        result = torch.zeros_like(x)
        result[..., self.kept] = scaled * self.norm.weight[self.kept] + self.norm.bias[self.kept]
        return result


class KeptMemory(nn.Module):
    """Attention weights over the kept memory steps alone, in the place of their dropout."""

    def __init__(self, gone: Tensor) -> None:
        super().__init__()
        self.gone = gone

    def forward(self, weights: Tensor) -> Tensor:
        stays = weights.masked_fill(self.gone, 0)
        return stays / stays.sum(-1, keepdim=True)


class PassThrough(nn.Module):
    """A layer that adds nothing."""

    def forward(self, x: Tensor, *_: Any) -> Tensor:
        return x


def zeroed(model: ForecastModel, keep: Keep) -> Callable[..., Tensor]:
    """Returns the dense model with the units that do not stay silenced, as a function of its inputs."""
    reference = copy.deepcopy(model)
    for group in model.groups():
        if group.name in keep:
            _silence(reference, group, keep[group.name])
    # a decoder that cuts its stream to the horizon in its last layer leaves that to us when the layer is passed
    return lambda *inputs: reference(*inputs)[:, -model.config.horizon :]


def _silence(model: ForecastModel, group: Group, kept: Tensor) -> None:
    gone = torch.tensor([unit not in kept for unit in range(group.size)])
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    for member in group.members:
        tensor = state[member.name].detach()
        silence = 0 if tensor.is_floating_point() else -1  # of what is counted, 0 is the first
        tensor.index_fill_(member.dim, member.index[gone].flatten(), silence)
    if group.normalised:
        for member in group.members:
            name = member.name.rpartition(".")[0]
            if isinstance(norm := model.get_submodule(name), nn.LayerNorm):
                model.set_submodule(name, KeptNorm(norm, member.index[kept].flatten()))
    if group.softmax_of is not None:
        model.set_submodule(f"{group.softmax_of}.dropout", KeptMemory(gone))
    if group.stack is not None:
        for unit in gone.nonzero().flatten().tolist():
            model.set_submodule(f"{group.stack}.{unit}", PassThrough())


def random_keep(group: Group, size: int, seed: int) -> Tensor:
    return torch.randperm(group.size, generator=torch.Generator().manual_seed(seed))[:size].sort().values


def deviation(model: ForecastModel, keep: Keep) -> float:
    with torch.no_grad():
        return (shrink(model, keep)(*small_inputs()) - zeroed(model, keep)(*small_inputs())).abs().max().item()


def test_every_registered_model_takes_part() -> None:
    assert set(SMALL) == set(MODELS.names())


@pytest.mark.parametrize(("model_name", "group_name"), CASES)
def test_zeroed_equals_removed(model_name: str, group_name: str) -> None:
    model = small_model(model_name)
    group = next(group for group in model.groups() if group.name == group_name)
    for seed, size in enumerate({group.minimum, group.size // 2, group.size - 1} - {0, group.size}):
        keep = {group_name: random_keep(group, max(size, group.minimum), seed)}
        assert deviation(model, keep) < 1e-10


@pytest.mark.parametrize("model_name", prunable_models())
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_zeroed_equals_removed_for_all_groups_at_once(model_name: str, seed: int) -> None:
    model = small_model(model_name)
    sizes = torch.Generator().manual_seed(seed)
    keep = {}
    for number, group in enumerate(model.groups()):
        size = int(torch.randint(group.minimum, group.size + 1, (), generator=sizes))
        keep[group.name] = random_keep(group, size, 100 * seed + number)
    assert deviation(model, keep) < 1e-10


@pytest.mark.parametrize("model_name", prunable_models())
def test_removing_a_unit_changes_the_forecast(model_name: str) -> None:
    """Otherwise the comparison above would prove nothing."""
    model = small_model(model_name)
    with torch.no_grad():
        dense = model(*small_inputs())
        for group in model.groups():
            keep = {group.name: torch.arange(group.minimum)}
            assert (shrink(model, keep)(*small_inputs()) - dense).abs().max() > 1e-6


@pytest.mark.parametrize("model_name", prunable_models())
def test_a_shrunk_model_shrinks_on_as_if_at_once(model_name: str) -> None:
    model = small_model(model_name)
    units = [group for group in model.groups() if group.kind != "layer"]
    smaller = shrink(model, {group.name: random_keep(group, -(-group.size * 3 // 4), 7) for group in units})
    names = {group.name for group in smaller.groups()}
    assert names == {group.name for group in model.groups()}
    keep = {group.name: random_keep(group, -(-group.size // 2), 8) for group in smaller.groups()}
    assert deviation(smaller, keep) < 1e-10


@pytest.mark.parametrize("model_name", prunable_models())
def test_groups_are_well_formed(model_name: str) -> None:
    model = small_model(model_name)
    state = model.state_dict()
    names = [group.name for group in model.groups()]
    assert len(names) == len(set(names))
    for group in model.groups():
        assert 1 <= group.minimum <= group.size
        assert bool(group.members) != (group.stack is not None)
        for member in group.members:
            assert member.index.shape[0] == group.size
            assert member.index.flatten().unique().tolist() == list(range(state[member.name].shape[member.dim]))
