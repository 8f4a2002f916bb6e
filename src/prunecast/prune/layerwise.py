"""Granularities whose choice and update go together: layer by layer, what stays in a map makes good what goes.

Single weights, blocks of them, or all but N of M beside each other become zero. How many go from each map is settled
first, from what they read in the dense model; then the maps are solved one after another, each from what it reads once
those before it are pruned (`regression`), by one of the solvers of `second_order`.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.base import ForecastModel, LinearMap
from prunecast.prune.allocate import lowest, shares_of
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.prune.masks import apply_masks
from prunecast.prune.methods import Granularity, Pruned, Scores, Statistics, Task
from prunecast.prune.regression import RIDGE, MapName, Problem, Solution, full_name, maps_of, reconstruct
from prunecast.prune.second_order import (
    Amount,
    BlockShape,
    Pattern,
    Quota,
    Solver,
    damage,
    damage_steps,
    keep_highest,
    ria,
    ridge,
    wanda,
)
from prunecast.prune.unstructured import candidates, worth, zeros_in
from prunecast.recipe import NO_RECOVERY
from prunecast.registry import ALLOCATIONS, SOLVERS


@dataclass(frozen=True)
class Site:
    """A linear map of which weights may go.

    Attributes:
        name: of the map.
        key: of the layer that is called, and of the map in it.
        own: the map.
        free_I: which of its inputs' weights may go; others, such as a bias that is a column, stay.
        shape: G, O and the number of free inputs.
        gone_GOI: weights that masks hold at zero already, of the free inputs.
    """

    name: str
    key: MapName
    own: LinearMap
    free_I: Tensor
    shape: tuple[int, int, int]
    gone_GOI: Tensor

    def blocks(self, shape: BlockShape) -> int:
        """Returns how many blocks there are, those at the edges included."""
        maps, outputs, inputs = self.shape
        return maps * math.ceil(outputs / shape.rows) * math.ceil(inputs / shape.columns)

    def chosen(self, problem: Problem, quota: Quota, solver: Solver) -> Solution:
        """Returns the map with its quota gone; inputs whose weights all stay are only updated."""
        if self.free_I.all():
            return solver(problem, quota)
        part = without_inputs(problem, ~self.free_I)
        chosen = solver(part, quota)
        assert chosen.mask_GOI is not None, "a solver that chooses says what stays"
        mask_GOI, weight_GOI = torch.ones_like(problem.weight_GOI, dtype=torch.bool), problem.weight_GOI.clone()
        mask_GOI[:, :, self.free_I] = chosen.mask_GOI
        weight_GOI[:, :, self.free_I] = chosen.weight_GOI
        return Solution(weight_GOI, problem.bias_O, mask_GOI)


def without_inputs(problem: Problem, gone_I: Tensor) -> Problem:
    """Returns the problem of the other inputs, once these follow every choice of those: a Schur complement.

    Its minimum and the damage of what is chosen are those of the whole problem.
    """
    stays_I, hessian_GII = ~gone_I, problem.hessian_GII
    best_GOI = torch.linalg.solve(hessian_GII, problem.right_GIO).mT
    between_GFS = torch.linalg.solve(hessian_GII[:, gone_I][:, :, gone_I], hessian_GII[:, gone_I][:, :, stays_I])
    left_GSS = hessian_GII[:, stays_I][:, :, stays_I] - hessian_GII[:, stays_I][:, :, gone_I] @ between_GFS
    level_G11 = RIDGE / (1 + RIDGE) * left_GSS.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    weight_GOS, held_GSS = problem.weight_GOI[:, :, stays_I], level_G11 * torch.eye(left_GSS.shape[1]).to(left_GSS)
    moments = replace(
        problem.moments,
        mean_GI=problem.moments.mean_GI[:, stays_I],
        xx_GII=left_GSS - held_GSS,
        xy_GIO=left_GSS @ best_GOI[:, :, stays_I].mT - held_GSS @ weight_GOS.mT,
    )
    support = problem.support_GOI
    return Problem(problem.name, weight_GOS, None, None if support is None else support[:, :, stays_I], moments)


def sites_of(task: Task, names: Sequence[str]) -> dict[str, Site]:
    """Returns the maps of which weights may go, by name.

    Raises:
        UserError: when a parameter is in no map.
    """
    model, sites, found = task.model, {}, set()
    for key, own in maps_of(model).items():
        parts = {part: full_name(key[0], part) for part in own.parameters}
        if not set(parts.values()) & set(names):
            continue
        weights = {part: model.get_parameter(name) for part, name in parts.items()}
        free = own.matrix({part: torch.full_like(weights[part], name in names) for part, name in parts.items()}) > 0
        free_I = free.flatten(0, 1).any(0)
        assert (free == free_I).all(), f"{key}: all weights of an input may go, or none"
        held = {part: task.masks.get(name) for part, name in parts.items()}
        gone = own.matrix({part: weights[part] * 0 if mask is None else ~mask + 0.0 for part, mask in held.items()}) > 0
        sites[full_name(*key)] = Site(
            name=full_name(*key),
            key=key,
            own=own,
            free_I=free_I,
            shape=(*free.shape[:2], int(free_I.sum())),
            gone_GOI=gone[:, :, free_I],
        )
        found |= set(parts.values())
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"method {task.method.name!r} solves linear maps, and {missing[0]!r} of {model.config.name!r} is in none; "
            "use magnitude"
        )
    return sites


def prune_layerwise(task: Task) -> Pruned:
    """Returns a copy of the model in which the requested share of weights is gone, and the others make it good.

    Raises:
        UserError: on a budget that cannot be met, or an option that has no meaning here.
    """
    for option in ("kinds", "step"):
        task.refuse(option)
    names, solver = candidates(task), SOLVERS.load(task.method.score)
    sites, shape = sites_of(task, names), block_shape(task.method.blocks)
    size = sum(math.prod(site.shape) for site in sites.values())
    prices = task.weight_cost(task.model) if task.of == "operations" else {}
    if isinstance(shape, Pattern):
        budget = _pattern_budget(task, shape, size)
        quotas: dict[str, Quota] = dict.fromkeys(sites, shape)
    else:
        budget, quotas = _quotas(task, sites, shape, size, prices)
    model = copy.deepcopy(task.model)
    recovers = task.recovery != NO_RECOVERY

    def solve(problem: Problem) -> Solution:
        site = sites.get(problem.name)
        if site is None:
            return ridge(problem) if recovers else Solution(problem.weight_GOI, problem.bias_O)
        solution = site.chosen(problem, quotas[problem.name], solver)
        solved_already = site.free_I.all() and solver not in (by_magnitude, by_wanda)
        return solution if solved_already or not recovers else ridge(replace(problem, support_GOI=solution.mask_GOI))

    solved = reconstruct(task.model, model, solve, task.statistics, masks=task.masks, fits_norms=recovers)
    masks = {name: solved.masks[name] for name in names}
    apply_masks(model, masks)
    removed = zeros_in(masks)
    realised = round(worth(masks, prices)) if prices else sum(removed.values())
    return Pruned(model, masks, budget.outcome(task.method.name, realised, removed_weights=removed))


def block_shape(blocks: str) -> BlockShape | Pattern:
    """Returns what goes at once: "1x16" outputs by inputs, "2:4" for two of four that stay; "1x1" are single weights.

    Raises:
        UserError: on another form.
    """
    found = re.fullmatch(r"([1-9]\d*)([x:])([1-9]\d*)", blocks)
    first, second = (int(found[1]), int(found[3])) if found else (0, 0)
    if found and found[2] == "x":
        return BlockShape(first, second)
    if found and first < second:
        return Pattern(first, second)
    raise UserError(f"blocks: expected outputs x inputs such as 1x16, or a pattern such as 2:4, found {blocks!r}")


def _price(site: Site, prices: Mapping[str, float]) -> float:
    """Returns the MACs of one forecast that each weight of a map takes part in."""
    return max(prices.get(full_name(site.key[0], part), 0.0) for part in site.own.parameters)


def _pattern_budget(task: Task, pattern: Pattern, size: int) -> Budget:
    share = 1 - pattern.keep / pattern.of
    if abs(task.config.sparsity - share) > 1e-6:
        raise UserError(
            f"method {task.method.name!r} removes {share:g} of the weights, expected that sparsity, "
            f"found {task.config.sparsity:g}"
        )
    if task.of != "prunable":
        raise UserError(f"method {task.method.name!r} counts prunable weights; leave prune.of out")
    return budget_for("prunable", size, share)


def _quotas(
    task: Task, sites: Mapping[str, Site], shape: BlockShape, size: int, prices: Mapping[str, float]
) -> tuple[Budget, dict[str, Quota]]:
    """Returns the budget, and how many blocks of each map go."""
    build: BlockAllocation = ALLOCATIONS.load(task.method.allocation)
    allocate = cache(build(task, sites, shape))
    gone, most = _gone(sites, shape), sum(site.blocks(shape) for site in sites.values()) - 1
    # a block at an edge is a smaller one: each counts as the mean one of its map
    each = {
        name: (_price(site, prices) if prices else 1.0) * math.prod(site.shape) / site.blocks(shape)
        for name, site in sites.items()
    }
    saved = cache(lambda count: math.fsum(each[name] * own for name, own in allocate(count).items()))
    if task.of == "operations":
        total = task.cost(task.model.config)
    else:
        total = size if task.of == "prunable" else sum(parameter.numel() for parameter in task.model.parameters())
    budget = budget_for(task.of, total, task.config.sparsity)
    budget.check(saved(most), saved(gone))
    count = nearest_count(saved, max(gone, 1), most, budget.requested)
    return budget, {name: Amount(number, shape) for name, number in allocate(count).items()}


def _gone(sites: Mapping[str, Site], shape: BlockShape) -> int:
    return sum(int(site.gone_GOI.sum()) for site in sites.values()) // (shape.rows * shape.columns)


# How many blocks of each map go

BlockAllocation = Callable[[Task, Mapping[str, Site], BlockShape], Callable[[int], Mapping[str, int]]]
"""Returns a function from how many blocks go in all to how many of each map."""


def uniform_blocks(task: Task, sites: Mapping[str, Site], shape: BlockShape) -> Callable[[int], Mapping[str, int]]:
    """The same share of each map."""
    sizes, gone = [site.blocks(shape) for site in sites.values()], [_gone({"": site}, shape) for site in sites.values()]
    return lambda count: dict(zip(sites, shares_of(sizes, count, gone), strict=True))


def damage_blocks(task: Task, sites: Mapping[str, Site], shape: BlockShape) -> Callable[[int], Mapping[str, int]]:
    """Where they cost the forecast least: the damage to a map, times what a damage there does to the forecast.

    What a map loses with any number of blocks gone is known from what it reads in the dense model (`damage_steps`). How
    the forecast answers is measured: by how far it moves when that map alone has lost its share.
    """
    lost: dict[str, Tensor] = {}  # what each further block that goes adds to the damage of a map
    tried: dict[str, tuple[float, Tensor]] = {}  # the damage and the weights of a map that has lost its share

    def note(problem: Problem) -> Solution:
        site = sites.get(problem.name)
        if site is not None and problem.name not in lost:
            free = problem if site.free_I.all() else without_inputs(problem, ~site.free_I)
            free = replace(free, support_GOI=~site.gone_GOI if site.gone_GOI.any() else None)
            lost[problem.name] = damage_steps(free, shape)
            whole = torch.ones_like(problem.weight_GOI, dtype=torch.bool)
            share = round(task.config.sparsity * site.blocks(shape))
            whole[:, :, site.free_I] = _cheapest(free, Amount(share, shape))
            solved = ridge(replace(problem, support_GOI=whole))
            tried[problem.name] = damage(problem, solved.weight_GOI), solved.weight_GOI
        return Solution(problem.weight_GOI, problem.bias_O)

    reconstruct(task.model, copy.deepcopy(task.model), note, task.statistics, fits_norms=False)
    moved = _moves(task, {name: (sites[name], weight) for name, (_, weight) in tried.items()})
    steps = {name: costs * (moved[name] / max(tried[name][0], _LEAST)) for name, costs in lost.items()}

    def counts(count: int) -> Mapping[str, int]:
        going = lowest(torch.cat(list(steps.values())), count)
        parts = going.split_with_sizes([len(costs) for costs in steps.values()])
        return {name: int(part.sum()) for name, part in zip(steps, parts, strict=True)}

    return counts


_LEAST = 1e-30
"""Stands in for a damage of zero."""


def _cheapest(problem: Problem, quota: Quota) -> Tensor:
    """Returns a mask whose quota would cost least if each weight went alone: the first step of `obc`."""
    best_GOI = ridge(problem).weight_GOI
    own_G1I = torch.linalg.inv(problem.hessian_GII).diagonal(dim1=1, dim2=2).unsqueeze(1)
    return keep_highest(best_GOI.square() / own_G1I, quota, problem.support_GOI)


def _moves(task: Task, tried: Mapping[str, tuple[Site, Tensor]]) -> dict[str, float]:
    """Returns by how much the forecast of some windows moves, in mean square, when one map alone has other weights."""
    batch = next(task.statistics.batches)
    model = copy.deepcopy(task.model).eval()
    moved = {}
    with torch.no_grad():
        dense_BHC = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
        for name, (site, weight_GOI) in tried.items():
            own = {full_name(site.key[0], part): weight for part, weight in site.own.tensors(weight_GOI).items()}
            before = {part: model.get_parameter(part).clone() for part in own}
            for part, weight in own.items():
                model.get_parameter(part).copy_(weight)
            y_BHC = model(batch.x_BLC, batch.x_mark_BLF, batch.y_mark_BTF)
            moved[name] = float((y_BHC - dense_BHC).double().square().mean())
            for part, weight in before.items():
                model.get_parameter(part).copy_(weight)
    return moved


# Choices without an update, and scores of weights from what they read


def by_magnitude(problem: Problem, quota: Quota) -> Solution:
    """Removes the smallest weights, or blocks of least norm."""
    return _masked(problem, keep_highest(problem.weight_GOI.square(), quota, problem.support_GOI))


def by_wanda(problem: Problem, quota: Quota) -> Solution:
    """Removes the weights, or blocks, of least `wanda` score."""
    return _masked(problem, keep_highest(wanda(problem).square(), quota, problem.support_GOI))


def _masked(problem: Problem, mask_GOI: Tensor) -> Solution:
    return Solution(problem.weight_GOI * mask_GOI, problem.bias_O, mask_GOI)


def wanda_scores(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each weight by its size times the norm of what it reads in the model as it is; see `wanda`."""
    return _scores(model, statistics, wanda)


def ria_scores(model: ForecastModel, statistics: Statistics) -> Scores:
    """Scores each weight by its relative importance and what it reads in the model as it is; see `ria`."""
    return _scores(model, statistics, ria)


def _scores(model: ForecastModel, statistics: Statistics, score: Callable[[Problem], Tensor]) -> Scores:
    found, maps = {}, {full_name(*key): (key[0], own) for key, own in maps_of(model).items()}

    def note(problem: Problem) -> Solution:
        layer, own = maps[problem.name]
        found.update({full_name(layer, part): scores for part, scores in own.tensors(score(problem)).items()})
        return Solution(problem.weight_GOI, problem.bias_O)

    reconstruct(model, copy.deepcopy(model), note, statistics, fits_norms=False)
    missing = [name for name in model.prunable() if name not in found]
    if missing:
        raise UserError(
            f"scores from what weights read: {missing[0]!r} of {model.config.name!r} is in no linear map; use magnitude"
        )
    return found


UPDATE = Granularity(prune=prune_layerwise, updates=True)
