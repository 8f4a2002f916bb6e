"""The one way into this room: a model and a prune section in, a pruned model and its outcome out.

Beside it the control that says what remains when nothing learned is left: every weight of the body is zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch

from prunecast.batch import Batch
from prunecast.errors import UserError
from prunecast.models.base import ForecasterConfig, ForecastModel, blank
from prunecast.prune.masks import apply_masks, check_masks
from prunecast.prune.methods import Cost, Granularity, Masks, Pruned, Statistics, Task, WeightCost
from prunecast.prune.regression import Solve, reconstruct
from prunecast.prune.schedule import MasksInTraining, Updates, in_steps
from prunecast.prune.structured import unit_choices
from prunecast.recipe import NO_RECOVERY, PruneConfig
from prunecast.registry import GRANULARITIES, METHODS, RECOVERIES, SCHEDULES


def prune_model(
    model: ForecastModel,
    config: PruneConfig,
    *,
    seed: int,
    cost: Cost,
    weight_cost: WeightCost,
    masks: Masks | None = None,
    batches: Iterable[Batch] | None = None,
) -> Pruned:
    """Prunes a model by the method that the config names. The model itself is left as it is.

    Args:
        model: with trained weights.
        config: method, amount, and what may go.
        seed: of whatever the method draws.
        cost: tells the dense MACs of a config.
        weight_cost: tells the MACs that each weight of a parameter takes part in.
        masks: held from an earlier pruning; what they remove counts as gone already.
        batches: windows of the training part, for methods that look at data; read anew at each step.

    Raises:
        UserError: on an unknown method, a budget that cannot be met, masks that do not fit the model, a method that
            looks at data and is given none, or one that prunes in training.
    """
    statistics = Statistics(seed, batches, kinds=config.kinds)
    task = _task(model, config, statistics, {} if masks is None else masks, cost=cost, weight_cost=weight_cost)
    task.method.check_epochs(0)
    granularity = _granularity(task)
    pruned = granularity.prune(task) if config.step is None else in_steps(task, granularity)
    if not granularity.updates:
        _repair(task, pruned)
    return pruned


def prune_in_several_ways(
    model: ForecastModel,
    config: PruneConfig,
    count: int,
    *,
    seed: int,
    cost: Cost,
    weight_cost: WeightCost,
    masks: Masks | None = None,
    batches: Iterable[Batch] | None = None,
) -> list[Pruned]:
    """Prunes a model by several choices of units, for a method that tunes them and takes the best; each is repaired.

    Args:
        model: as of `prune_model`, like all others.
        config: names a method that searches.
        count: the most choices; those come first that are thought to harm least.
        seed: see there.
        cost: see there.
        weight_cost: see there.
        masks: see there.
        batches: see there.

    Raises:
        UserError: as `prune_model` does.
    """
    statistics = Statistics(seed, batches, kinds=config.kinds)
    task = _task(model, config, statistics, {} if masks is None else masks, cost=cost, weight_cost=weight_cost)
    _granularity(task)
    found = unit_choices(task, count)
    for pruned in found:
        _repair(task, pruned)
    return found


def _repair(task: Task, pruned: Pruned) -> None:
    """Solves what stays anew, where that is asked for, in place."""
    if task.recovery != NO_RECOVERY:
        solve: Solve = RECOVERIES.load(task.recovery)
        reconstruct(task.model, pruned.model, solve, task.statistics, keep=pruned.keep, masks=pruned.masks)


def prune_in_training(
    model: ForecastModel,
    config: PruneConfig,
    *,
    steps: int,
    seed: int,
    cost: Cost,
    weight_cost: WeightCost,
    masks: Masks | None = None,
    batches: Iterable[Batch] | None = None,
) -> MasksInTraining:
    """Returns the hook with which training prunes a model; its masks and its outcome are the method's at the end.

    Args:
        model: that is to be trained.
        config: names a method that prunes in training.
        steps: that the training takes.
        seed: as of `prune_model`, like all others.
        cost: see there.
        weight_cost: see there.
        masks: see there.
        batches: see there.

    Raises:
        UserError: as `prune_model` does, or when the training is too short.
    """
    statistics = Statistics(seed, batches)
    task = _task(model, config, statistics, {} if masks is None else masks, cost=cost, weight_cost=weight_cost)
    assert task.method.schedule is not None, "the method prunes in training"
    granularity = _granularity(task)
    kind: type[MasksInTraining] = SCHEDULES.load(task.method.schedule)
    return kind(task, granularity.prune, Updates.of(config, steps))


def zero_body(model: ForecastModel) -> tuple[ForecastModel, Masks]:
    """Returns a copy of the model whose prunable weights are zero, the output layer's excepted, and the masks."""
    spared = model.output_layer()
    names = [name for name in model.prunable() if name not in spared]
    masks = {name: torch.zeros_like(model.get_parameter(name), dtype=torch.bool) for name in names}
    emptied = copy.deepcopy(model)
    apply_masks(emptied, masks)
    return emptied, masks


def check_budget(model: ForecasterConfig, config: PruneConfig, *, cost: Cost, weight_cost: WeightCost) -> None:
    """Checks that a model of this config can lose as much as is asked for, whatever its weights: before it is trained.

    Raises:
        UserError: when it cannot, with the most that it can; or on an option that has no meaning for the method.
    """
    task = Task(
        model=blank(model),
        config=config,
        method=METHODS.load(config.method),
        statistics=Statistics(seed=0),
        cost=cost,
        weight_cost=weight_cost,
        masks={},
    )
    granularity = _granularity(task)
    if granularity.check is not None:
        granularity.check(task)


def _task(
    model: ForecastModel,
    config: PruneConfig,
    statistics: Statistics,
    masks: Masks,
    *,
    cost: Cost,
    weight_cost: WeightCost,
) -> Task:
    """Returns what is to be done, once masks fit the model and a method that looks at data has some."""
    check_masks(model, masks)
    task = Task(
        model=model,
        config=config,
        method=METHODS.load(config.method),
        statistics=statistics,
        cost=cost,
        weight_cost=weight_cost,
        masks=masks,
    )
    task.method.check_recovery(config.recovery)
    if task.needs_data and statistics.data is None:
        raise UserError(f"method {config.method!r} looks at data, expected batches of the training part, found none")
    return task


def _granularity(task: Task) -> Granularity:
    """Returns what goes at once, once no option is without meaning for the method."""
    foreign = () if task.needs_data else ("calibration_batches", "calibration_seed")
    for option in (*foreign, *(("step",) if task.method.schedule else ("training_share", "training_updates"))):
        task.refuse(option)
    granularity: Granularity = GRANULARITIES.load(task.method.granularity)
    if not granularity.shrinks:
        task.refuse("keep")
    return granularity
