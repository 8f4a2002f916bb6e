"""Granularity `unit`: heads, feed-forward units, widths, modes or layers are cut out; the model becomes smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from prunecast.errors import UserError, near
from prunecast.models.base import ForecasterConfig, Group, Keep, blank
from prunecast.prune.allocate import Order, UnitAllocation, uniform_order
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.prune.damage import choices_by_damage
from prunecast.prune.methods import Cost, Granularity, Pruned, Score, Scores, Task, UnitRequest
from prunecast.prune.shrink import cut, shrink
from prunecast.records import BudgetOf
from prunecast.registry import ALLOCATIONS, SCORES

TOLD = 0.002
"""How far the share that a recipe names may be from what the units that it keeps come to."""


def prune_units(task: Task) -> Pruned:
    """Returns a smaller model whose savings come as near to the request as whole units allow.

    Raises:
        UserError: on a budget that cannot be met, an option that has no meaning here, or a model without units.
    """
    task.refuse("candidates")
    if task.method.allocation == "unit-damage" or task.config.keep is not None:  # all that goes is known at once
        task.refuse("step")
    groups = _groups(task)
    score: Score = SCORES.load(task.method.score)
    scores = score(task.model, task.statistics)
    keep: Keep
    if task.config.keep is not None:
        keep, realised, budget = _as_told(task, groups, scores)
    else:
        ranked, request, budget = _request(task, groups, scores)
        allocate: UnitAllocation = ALLOCATIONS.load(task.method.allocation)
        keep, realised = _nearest(request, allocate(ranked, request), budget)
    return _smaller(task, groups, keep, realised, budget)


def unit_choices(task: Task, count: int) -> list[Pruned]:
    """Returns smaller models by several choices of units, at most so many; those first that are thought to harm least.

    Raises:
        UserError: as `prune_units` does.
    """
    for option in ("candidates", "step", "keep"):
        task.refuse(option)
    groups = _groups(task)
    score: Score = SCORES.load(task.method.score)
    ranked, request, budget = _request(task, groups, score(task.model, task.statistics))
    orders = choices_by_damage(ranked, request, count)
    return [_smaller(task, groups, *_nearest(request, order, budget), budget) for order in orders]


def _smaller(task: Task, groups: Iterable[Group], keep: Keep, realised: int, budget: Budget) -> Pruned:
    kept_units = {group.name: (len(keep.get(group.name, range(group.size))), group.size) for group in groups}
    outcome = budget.outcome(task.method.name, realised, kept_units=kept_units)
    return Pruned(shrink(task.model, keep), cut(task.masks, task.model.groups(), keep), outcome, keep)


def check_units(task: Task) -> None:
    """Checks that a budget can be met: whatever the weights, that much is not in the units that have to stay.

    Raises:
        UserError: as `prune_units` does, without a search and without a smaller model.
    """
    groups = _groups(task)
    scores = {group.name: torch.zeros(group.size) for group in groups}
    if task.config.keep is not None:
        _as_told(task, groups, scores)
    else:
        ranked, request, budget = _request(task, groups, scores)
        order = uniform_order(ranked, request)
        budget.check(_savings(request, order)(len(order)))


def _groups(task: Task) -> tuple[Group, ...]:
    """Returns the groups of the kinds that may go."""
    groups = tuple(group for group in task.model.groups() if group.kind in task.config.kinds)
    if not groups:
        model, kinds = task.model.config.name, ", ".join(task.config.kinds)
        raise UserError(f"model {model!r} has no units of kinds {kinds}; use an unstructured method, such as magnitude")
    return groups


def _request(task: Task, groups: tuple[Group, ...], scores: Scores) -> tuple[Scores, UnitRequest, Budget]:
    """Returns what units rank by, what an allocation is asked for, and the budget."""
    ranked, cost = dict(ranked_units(groups, scores)), _cost(task)
    total = cost(task.model.config)
    if task.method.per_cost:
        for group in (group for group in groups if group.size > group.minimum):
            least = cost(task.model.shrunk_config({group.name: torch.arange(group.minimum)}))
            ranked[group.name] = ranked[group.name] / max((total - least) / (group.size - group.minimum), 1)
    budget = budget_for(task.of, total, task.config.sparsity)
    request = UnitRequest(
        model=task.model, groups=groups, statistics=task.statistics, cost=cost, requested=budget.requested
    )
    return ranked, request, budget


def _nearest(request: UnitRequest, order: Order, budget: Budget) -> tuple[Keep, int]:
    """Returns which units stay when as many go, in their order, as come nearest to the budget, and what that saves.

    Raises:
        UserError: when it is not within reach.
    """
    saved = _savings(request, order)
    budget.check(saved(len(order)))
    count = nearest_count(saved, 1, len(order), budget.requested)
    return order.keep(count), saved(count)


def _savings(request: UnitRequest, order: Order) -> Callable[[int], int]:
    """Returns what it saves to remove so many units in their order."""
    model, total = request.model, request.cost(request.model.config)
    return cache(lambda count: total - request.cost(model.shrunk_config(order.keep(count))))


def ranked_units(groups: Iterable[Group], scores: Scores) -> Scores:
    """Returns scores by which units that never reach the forecast go first, whatever they hold."""
    ranked = {}
    for group in groups:
        score = scores[group.name]
        unused = torch.tensor(group.unused_units, dtype=torch.int64, device=score.device)
        ranked[group.name] = score.index_fill(0, unused, -torch.inf)
    return ranked


def _as_told(task: Task, groups: tuple[Group, ...], scores: Scores) -> tuple[dict[str, Tensor], int, Budget]:
    """Returns which units stay as the recipe says: so many, those of the lowest scores go, or the ones that it names.

    Raises:
        UserError: when it names others than the model has, or the share that goes is not the one of the recipe.
    """
    ranked, known, keep = ranked_units(groups, scores), {group.name: group for group in groups}, {}
    for name, told in task.config.keep or ():
        if name not in known:
            raise UserError(f"prune.keep: the model has no units {name!r} that may go; {near(name, known)}")
        group = known[name]
        count, wrong = (told, ()) if isinstance(told, int) else (len({*told}), {*told} - {*range(group.size)})
        if wrong or not group.minimum <= count <= group.size:
            raise UserError(f"prune.keep: {name}: expected {group.minimum} to all of its {group.size}, found {told}")
        stay = ranked[name].argsort(stable=True)[group.size - count :].tolist() if isinstance(told, int) else told
        if count < group.size:
            keep[name] = torch.tensor(sorted({*stay}))
    cost = _cost(task)
    total = cost(task.model.config)
    realised, budget = total - cost(task.model.shrunk_config(keep)), budget_for(task.of, total, task.config.sparsity)
    if abs(realised - budget.requested) > TOLD * total:
        raise UserError(
            f"prune.sparsity: expected the share that prune.keep removes, {realised / total:.4f}, "
            f"found {task.config.sparsity:g}"
        )
    return keep, realised, budget


def _cost(task: Task) -> Cost:
    costs: dict[BudgetOf, Cost] = {"operations": task.cost, "model": _parameters, "prunable": _prunable_weights}
    return costs[task.of]


def _parameters(config: ForecasterConfig) -> int:
    return sum(parameter.numel() for parameter in blank(config).parameters())


def _prunable_weights(config: ForecasterConfig) -> int:
    model = blank(config)
    return sum(model.get_parameter(name).numel() for name in model.prunable())


UNIT = Granularity(prune=prune_units, shrinks=True, check=check_units)
