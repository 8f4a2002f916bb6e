"""Granularity `unit`: heads, feed-forward units, widths, modes or layers are cut out; the model becomes smaller."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig, Group, blank
from prunecast.prune.allocate import Order, UnitAllocation, uniform_order
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.prune.methods import Cost, Granularity, Pruned, Score, Scores, Task, UnitRequest
from prunecast.prune.shrink import cut, shrink
from prunecast.registry import ALLOCATIONS, SCORES


def prune_units(task: Task) -> Pruned:
    """Returns a smaller model whose savings come as near to the request as whole units allow.

    Raises:
        UserError: on a budget that cannot be met, an option that has no meaning here, or a model without units.
    """
    task.refuse("candidates")
    if task.method.allocation == "unit-damage":  # it looks at all that goes at once
        task.refuse("step")
    groups = _groups(task)
    score: Score = SCORES.load(task.method.score)
    order, saved, budget = _plan(
        task, groups, score(task.model, task.statistics), ALLOCATIONS.load(task.method.allocation)
    )
    count = nearest_count(saved, 1, len(order), budget.requested)
    keep = order.keep(count)
    kept_units = {group.name: (len(keep.get(group.name, range(group.size))), group.size) for group in groups}
    outcome = budget.outcome(task.method.name, saved(count), kept_units=kept_units)
    return Pruned(shrink(task.model, keep), cut(task.masks, task.model.groups(), keep), outcome, keep)


def check_units(task: Task) -> None:
    """Checks that a budget can be met: whatever the weights, that much is not in the units that have to stay.

    Raises:
        UserError: as `prune_units` does, without a search and without a smaller model.
    """
    groups = _groups(task)
    _plan(task, groups, {group.name: torch.zeros(group.size) for group in groups}, uniform_order)


def _groups(task: Task) -> tuple[Group, ...]:
    """Returns the groups of the kinds that may go."""
    groups = tuple(group for group in task.model.groups() if group.kind in task.config.kinds)
    if not groups:
        model, kinds = task.model.config.name, ", ".join(task.config.kinds)
        raise UserError(f"model {model!r} has no units of kinds {kinds}; use an unstructured method, such as magnitude")
    return groups


def _plan(
    task: Task, groups: tuple[Group, ...], scores: Scores, allocate: UnitAllocation
) -> tuple[Order, Callable[[int], int], Budget]:
    """Returns the order in which units go, what removing so many of them saves, and a budget that is within reach."""
    ranked = {}
    for group in groups:  # units that never reach the forecast go first, whatever they hold
        score = scores[group.name]
        unused = torch.tensor(group.unused_units, dtype=torch.int64, device=score.device)
        ranked[group.name] = score.index_fill(0, unused, -torch.inf)
    cost: Cost = {"operations": task.cost, "model": _parameters, "prunable": _prunable_weights}[task.of]
    total = cost(task.model.config)
    if task.method.per_cost:
        for group in (group for group in groups if group.size > group.minimum):
            least = cost(task.model.shrunk_config({group.name: torch.arange(group.minimum)}))
            ranked[group.name] = ranked[group.name] / max((total - least) / (group.size - group.minimum), 1)
    budget = budget_for(task.of, total, task.config.sparsity)
    request = UnitRequest(
        model=task.model, groups=groups, statistics=task.statistics, cost=cost, requested=budget.requested
    )
    order = allocate(ranked, request)
    saved = cache(lambda count: total - cost(task.model.shrunk_config(order.keep(count))))
    budget.check(saved(len(order)))
    return order, saved, budget


def _parameters(config: ForecasterConfig) -> int:
    return sum(parameter.numel() for parameter in blank(config).parameters())


def _prunable_weights(config: ForecasterConfig) -> int:
    model = blank(config)
    return sum(model.get_parameter(name).numel() for name in model.prunable())


UNIT = Granularity(prune=prune_units, shrinks=True, check=check_units)
