"""Optimal brain surgery on units: in which order they go, and what each number of them costs in error.

A consumer is a linear map that reads the units of a group: y = W h, with the moments H = E[h h^T] + lambda of what it
reads. When units go, the columns that stay take over what they can of those that go; of all units the one goes next
whose loss leaves the least error. All numbers of units come from one pass (ZipLM, Kurtic et al. 2023, arXiv
2302.04089; OSSCAR, Meng et al. 2024, arXiv 2403.12983; after Hassibi and Stork 1993).

U units, E inputs of each, I inputs, O outputs; G maps side by side, N tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunecast.batch import Batch
from prunecast.models.base import ForecastModel, Group, LinearMap
from prunecast.prune.methods import Scores, Statistics
from prunecast.prune.regression import RIDGE, MapName, maps_of
from prunecast.prune.scores import Gates
from prunecast.prune.shrink import shrink

STEPS = 128
"""Of so many units or fewer one goes at a time; of more that share of them, or the largest layers take minutes."""

MOMENT_BATCHES = 2
"""Of windows that the moments are taken of."""

WINDOWS = 16
"""For units that are scored by their gates or tried out."""


@dataclass(frozen=True)
class Consumer:
    """A linear map that reads units.

    Attributes:
        weight_OI: float64.
        moments_II: E[h h^T] + lambda of its inputs, positive definite, float64; centred where the map has a bias.
        index_UE: inputs that each unit owns.
    """

    weight_OI: Tensor
    moments_II: Tensor
    index_UE: Tensor


@dataclass(frozen=True)
class Removal:
    """The order in which units go.

    Attributes:
        order: (U,) units, the first to go first.
        damage: (U + 1,) the error of the outputs once so many are gone: sum of squares, mean over tokens.
    """

    order: Tensor
    damage: Tensor


def removal(consumers: Sequence[Consumer], first: Sequence[int] = ()) -> Removal:
    """Returns the order in which the units of a group leave its consumers.

    Args:
        consumers: all that read the group, at least one; what they lose adds up.
        first: units that go before all others, in this order.
    """
    states = [_State(consumer) for consumer in consumers]
    remaining = torch.arange(len(consumers[0].index_UE))
    order, damages = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(1, dtype=torch.float64)]
    early = list(first)
    while len(remaining):
        if early:
            leaving = (remaining == early.pop(0)).nonzero().squeeze(1)
        else:
            alone = sum((state.losses() for state in states), torch.zeros(len(remaining), dtype=torch.float64))
            leaving = alone.argsort(stable=True)[: max(1, len(remaining) // STEPS)]
        loss = sum(state.remove(leaving) for state in states)
        shares = torch.arange(1, len(leaving) + 1, dtype=torch.float64) / len(leaving)
        damages.append(damages[-1][-1:] + shares * loss)
        order.append(remaining[leaving])
        stays = torch.ones(len(remaining), dtype=torch.bool)
        stays[leaving] = False
        remaining = remaining[stays]
    return Removal(torch.cat(order), torch.cat(damages))


def unit_obs(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each unit with what the forecast deviates by, mean square, when it goes after those that score lower.

    Of heads, feed-forward units and widths that is the error of the maps that read them once these are adjusted, each
    output weighed by how strongly the forecast hangs on it. Units that no map reads as columns (modes, routers) score
    the deviation by their gate, to first order; those without a gate (layers) what the forecast deviates by without
    them.
    """
    model = copy.deepcopy(model).eval()
    groups = [group for group in model.groups() if group.kind in statistics.kinds]
    batches = [batch for batch, _ in zip(statistics.batches, range(MOMENT_BATCHES), strict=False)]
    consumers = _consumers(model, groups, batches, statistics.seed)
    scores = {}
    for group in groups:
        if group.name in consumers:
            found = removal(consumers[group.name], group.unused_units)
            scores[group.name] = torch.empty(group.size, dtype=torch.float64)
            scores[group.name][found.order] = found.damage.diff().cummax(0).values
    rest = [group for group in groups if group.name not in scores]
    return scores | (_deviations(model, rest, batches, statistics.seed) if rest else {})


def _consumers(
    model: ForecastModel, groups: Sequence[Group], batches: Sequence[Batch], seed: int
) -> dict[str, list[Consumer]]:
    """Returns the maps that read the units of each group as inputs; groups that none reads are not named."""
    maps = maps_of(model)
    indices = {group.name: _read_by(model, maps, group) for group in groups}
    read = sorted({key for found in indices.values() for key in found})
    hessians, shares = _moments(model, {key: maps[key] for key in read}, batches, seed)
    consumers: dict[str, list[Consumer]] = {}
    for name, found in indices.items():
        for key, index_UE in found.items():
            weight_OI = _matrix(model, key, maps[key]) * shares[key].sqrt().unsqueeze(1)
            consumers.setdefault(name, []).append(Consumer(weight_OI, hessians[key], index_UE))
    return consumers


def _read_by(model: nn.Module, maps: Mapping[MapName, LinearMap], group: Group) -> dict[MapName, Tensor]:
    """Returns which inputs of which single maps the units of a group own, (U, E) each."""
    found = {}
    for key, own in maps.items():
        names = {name: f"{key[0]}.{name}".removeprefix(".") for name in own.parameters}
        members = {member.name: member for member in group.members if member.name in names.values()}
        if not members:
            continue
        owners = {}  # of each weight its unit, counted from 1
        for name, full in names.items():
            owners[name] = torch.zeros_like(model.get_parameter(full).detach())
            if full in members:
                member, shape = members[full], [1] * owners[name].dim()
                shape[member.dim] = -1
                unit = owners[name].new_zeros(owners[name].shape[member.dim])
                unit[member.index] = torch.arange(1, group.size + 1).to(unit).unsqueeze(1).expand(member.index.shape)
                owners[name] += unit.view(shape)
        owner_GOI = own.matrix(owners)
        columns_I = owner_GOI[0, 0]
        # a unit owns whole columns of a map that reads it, whole rows of one that writes it
        if len(owner_GOI) == 1 and (owner_GOI == columns_I).all() and bool((columns_I != columns_I[0]).any()):
            found[key] = torch.stack([(columns_I == unit).nonzero().squeeze(1) for unit in range(1, group.size + 1)])
    return found


def _matrix(model: nn.Module, key: MapName, own: LinearMap) -> Tensor:
    parameters = {name: model.get_parameter(f"{key[0]}.{name}".removeprefix(".")).detach() for name in own.parameters}
    return own.matrix(parameters)[0].double()


def _moments(
    model: ForecastModel, maps: Mapping[MapName, LinearMap], batches: Sequence[Batch], seed: int
) -> tuple[dict[MapName, Tensor], dict[MapName, Tensor]]:
    """Returns of each map the moments of its inputs (I, I), and how far the forecast goes with its outputs (O,).

    The latter is the mean, over tokens, of the squared slope of the forecast by an output, in units in which squared
    errors of the outputs become squared deviations of the forecast. It is taken along random directions.
    """
    inputs: dict[MapName, list[Tensor]] = {key: [] for key in maps}
    outputs: dict[MapName, list[Tensor]] = {}

    def hear(key: MapName) -> Any:
        def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            with torch.no_grad():
                inputs[key].append(maps[key].features(*arguments)[0])

        return before

    def keep(key: MapName) -> Any:
        def after(module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> None:
            outputs.setdefault(key, []).append(result)

        return after

    layers = {key: model.get_submodule(key[0]) for key in maps}
    handles = [layer.register_forward_pre_hook(hear(key)) for key, layer in layers.items()]
    slopes = {key: layer for key, layer in layers.items() if isinstance(layer, nn.Linear)}  # its result is the map's
    try:
        with torch.no_grad():
            for batch in batches[1:]:
                model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        handles += [layer.register_forward_hook(keep(key)) for key, layer in slopes.items()]
        batch = batches[0]
        with torch.enable_grad():
            forecast_BHC = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
    finally:
        for handle in handles:
            handle.remove()
    generator = torch.Generator().manual_seed(seed)
    direction_BHC = torch.randn(forecast_BHC.shape, generator=generator).to(forecast_BHC)
    kept = [(key, result) for key, results in outputs.items() for result in results]
    along = (forecast_BHC * direction_BHC).sum()
    found = torch.autograd.grad(along, [result for _, result in kept], allow_unused=True) if kept else ()
    shares = {key: torch.ones(len(_matrix(model, key, own)), dtype=torch.float64) for key, own in maps.items()}
    for key in outputs:
        of_key = [slope for (other, _), slope in zip(kept, found, strict=True) if other == key and slope is not None]
        squares = [slope.flatten(0, -2).double().square().sum(0) for slope in of_key]
        shares[key] = sum(squares, torch.zeros_like(shares[key])) / forecast_BHC.numel()
    return {key: _hessian(torch.cat(inputs[key]), maps[key].bias is not None) for key in maps}, shares


def _hessian(x_NI: Tensor, centred: bool) -> Tensor:
    """Returns the moments of inputs with the ridge that a repair has too."""
    x = x_NI.detach().double()
    x = x - x.mean(0) if centred else x
    moments_II = x.T @ x / len(x)
    level = (RIDGE * moments_II.diagonal().mean()).clamp_min(torch.finfo(torch.float32).tiny)
    moments_II.diagonal().add_(level)
    return moments_II


def _deviations(
    model: ForecastModel, groups: Sequence[Group], batches: Sequence[Batch], seed: int
) -> dict[str, Tensor]:
    """Returns what the forecast deviates by, mean square, without each unit: to first order, or tried out."""
    few = Batch(*(part[:WINDOWS] for part in batches[0]))
    with torch.no_grad():
        forecast_BHC = model(few.x_BLC, few.x_mark_BLF, few.y_mark_BTF)
    generator = torch.Generator().manual_seed(seed)
    direction_BHC = torch.randn(forecast_BHC.shape, generator=generator).to(forecast_BHC)
    gates = Gates(model, tuple({group.kind for group in groups if group.kind != "layer"}))
    # where the truth is the forecast less a random direction, the loss has the slope of the forecast along it
    slopes = gates.slopes(few._replace(y_BHC=forecast_BHC - direction_BHC)) if gates.groups else {}
    found = {}
    for group in groups:
        if group.name in slopes:
            found[group.name] = slopes[group.name].square().mean(0) * forecast_BHC[0].numel() / 4
            continue
        found[group.name] = torch.zeros(group.size, dtype=torch.float64)
        for unit in range(group.size) if group.size > group.minimum else ():
            others = torch.tensor([other for other in range(group.size) if other != unit])
            without = shrink(model, {group.name: others}, groups)
            with torch.no_grad():
                deviation_BHC = without(few.x_BLC, few.x_mark_BLF, few.y_mark_BTF) - forecast_BHC
            found[group.name][unit] = deviation_BHC.double().square().mean()
    return found


class _State:
    """A consumer without the inputs of the units that are gone: their rows and columns are zero, now and then cut."""

    def __init__(self, consumer: Consumer) -> None:
        self.inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(consumer.moments_II))
        self.weight_OI, self.index_UE = consumer.weight_OI.clone(), consumer.index_UE
        self.stays_I = torch.ones(len(self.inverse_II), dtype=torch.bool)

    def losses(self) -> Tensor:
        """Returns what each unit would cost if it went alone: the trace of W_E (H^-1_EE)^-1 W_E^T, (U,)."""
        inverse_UEE = self.inverse_II[self.index_UE.unsqueeze(2), self.index_UE.unsqueeze(1)]
        weight_UEO = self.weight_OI.T[self.index_UE]
        losses_U: Tensor = (torch.linalg.solve(inverse_UEE, weight_UEO) * weight_UEO).sum((1, 2))
        return losses_U

    def remove(self, units: Tensor) -> float:
        """Takes units out, adjusts the rest, and returns what that costs."""
        goes = self.index_UE[units].flatten()
        rows_EI, weight_OE = self.inverse_II[goes], self.weight_OI[:, goes]
        solved_EI = torch.linalg.solve(rows_EI[:, goes], rows_EI)
        loss = float((torch.linalg.solve(rows_EI[:, goes], weight_OE.T) * weight_OE.T).sum())
        self.weight_OI.addmm_(weight_OE, solved_EI, alpha=-1)
        self.inverse_II.addmm_(rows_EI.T, solved_EI, alpha=-1)
        left = torch.ones(len(self.index_UE), dtype=torch.bool)
        left[units] = False
        self.index_UE, self.stays_I[goes] = self.index_UE[left], False
        if self.stays_I.sum() < len(self.stays_I) / 2:
            self.weight_OI = self.weight_OI[:, self.stays_I]
            self.inverse_II = self.inverse_II[self.stays_I][:, self.stays_I]
            self.index_UE = (self.stays_I.cumsum(0) - 1)[self.index_UE]
            self.stays_I = self.stays_I[self.stays_I]
        return loss
