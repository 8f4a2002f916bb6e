"""Granularity `unit`: heads, feed-forward units, widths, modes or layers are cut out; the model becomes smaller."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig, Group, Keep, blank
from prunecast.prune.allocate import Order, UnitAllocation, removal_order
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.prune.methods import Cost, Granularity, Pruned, Score, Scores, Task
from prunecast.prune.shrink import shrink, shrink_masks
from prunecast.registry import ALLOCATIONS, SCORES


def prune_units(task: Task) -> Pruned:
    """Returns a smaller model whose savings come as near to the request as whole units allow.

    Raises:
        UserError: on a budget that cannot be met, an option that has no meaning here, or a model without units.
    """
    task.refuse("candidates")
    groups = unit_groups(task)
    score: Score = SCORES.load(task.method.score)
    order = _order(task, groups, score(task.model, task.statistics))
    saved = cache(_saving(task, order))
    budget = _reachable(task, order, saved)
    count = nearest_count(saved, 1, len(order), budget.requested)
    keep = order.keep(count)
    outcome = budget.outcome(task.method.name, saved(count), kept_units=_kept_units(groups, keep))
    return Pruned(shrink(task.model, keep), shrink_masks(task.model, keep, task.masks), outcome)


def check_units(task: Task) -> None:
    """Checks that a budget can be met: whatever the weights, that much is not in the units that have to stay.

    Raises:
        UserError: as `prune_units` does, without a search and without a smaller model.
    """
    groups = unit_groups(task)
    order = _order(task, groups, {group.name: torch.zeros(group.size) for group in groups})
    _reachable(task, order, _saving(task, order))


def _saving(task: Task, order: Order) -> Callable[[int], int]:
    """Returns the function that tells what removing so many units saves."""
    cost = _cost(task)
    total = cost(task.model.config)
    return lambda count: total - cost(task.model.shrunk_config(order.keep(count)))


def _reachable(task: Task, order: Order, saved: Callable[[int], int]) -> Budget:
    budget = budget_for(task.of, _cost(task)(task.model.config), task.config.sparsity)
    budget.refuse_above(saved(len(order)))
    return budget


def unit_groups(task: Task) -> tuple[Group, ...]:
    """Returns the groups of the kinds that may go.

    Raises:
        UserError: when the model has none.
    """
    groups = tuple(group for group in task.model.groups() if group.kind in task.config.kinds)
    if not groups:
        model, kinds = task.model.config.name, ", ".join(task.config.kinds)
        raise UserError(f"model {model!r} has no units of kinds {kinds}; use an unstructured method, such as magnitude")
    return groups


def _order(task: Task, groups: tuple[Group, ...], scores: Scores) -> Order:
    allocate: UnitAllocation = ALLOCATIONS.load(task.method.allocation)
    priorities = allocate({group.name: _idle_first(group, scores[group.name]) for group in groups})
    return removal_order(priorities, {group.name: group.minimum for group in groups})


def _idle_first(group: Group, score: Tensor) -> Tensor:
    """Returns the score with units that never reach the forecast below all others, whatever they hold."""
    unused = torch.tensor(group.unused_units, dtype=torch.int64, device=score.device)
    return score.index_fill(0, unused, -torch.inf)


def _cost(task: Task) -> Cost:
    """Returns what a config costs in units of the budget."""
    return {"operations": task.cost, "model": _parameters, "prunable": _prunable_weights}[task.of]


def _parameters(config: ForecasterConfig) -> int:
    return sum(parameter.numel() for parameter in blank(config).parameters())


def _prunable_weights(config: ForecasterConfig) -> int:
    model = blank(config)
    return sum(model.get_parameter(name).numel() for name in model.prunable())


def _kept_units(groups: tuple[Group, ...], keep: Keep) -> dict[str, tuple[int, int]]:
    return {group.name: (len(keep.get(group.name, range(group.size))), group.size) for group in groups}


UNIT = Granularity(prune=prune_units, shrinks=True, check=check_units)
