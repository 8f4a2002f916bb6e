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
from prunecast.prune.schedule import in_steps
from prunecast.recipe import PruneConfig
from prunecast.registry import GRANULARITIES, METHODS


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
        UserError: on an unknown method, a budget that cannot be met, masks that do not fit the model, or a method that
            looks at data and is given none.
    """
    held = {} if masks is None else masks
    check_masks(model, held)
    task = Task(
        model=model,
        config=config,
        method=METHODS.load(config.method),
        statistics=Statistics(seed, batches),
        cost=cost,
        weight_cost=weight_cost,
        masks=held,
    )
    granularity = _granularity(task)
    if task.method.needs_data and batches is None:
        raise UserError(f"method {task.method.name!r} looks at data, expected batches of the training part, found none")
    return granularity.prune(task) if config.step is None else in_steps(task, granularity)


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


def _granularity(task: Task) -> Granularity:
    """Returns what goes at once, once no option is without meaning for the method."""
    if not task.method.needs_data:
        for option in ("calibration_batches", "calibration_seed"):
            task.refuse(option)
    granularity: Granularity = GRANULARITIES.load(task.method.granularity)
    return granularity
