"""The one way into this room: a model and a prune section in, a pruned model and its outcome out."""

from __future__ import annotations

from collections.abc import Iterable

from prunecast.batch import Batch
from prunecast.models.base import Forecaster, ForecasterConfig, blank
from prunecast.prune.masks import check_masks
from prunecast.prune.methods import Cost, Granularity, Masks, Method, Pruned, Statistics, Task, WeightCost
from prunecast.prune.schedule import in_steps
from prunecast.recipe import PruneConfig
from prunecast.registry import GRANULARITIES, METHODS


def prune(
    model: Forecaster,
    config: PruneConfig,
    *,
    seed: int,
    cost: Cost,
    weight_cost: WeightCost,
    masks: Masks | None = None,
    batches: Iterable[Batch] = (),
) -> Pruned:
    """Prunes a model by the method that the config names. The model itself is left as it is.

    Args:
        model: with trained weights.
        config: method, amount, and what may go.
        seed: of whatever the method draws.
        cost: tells the dense MACs of a config.
        weight_cost: tells the MACs that each weight of a parameter takes part in.
        masks: held from an earlier pruning; what they remove counts as gone already.
        batches: windows of the training part, for methods that look at data.

    Raises:
        UserError: on an unknown method, a budget that cannot be met, or masks that do not fit the model.
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
    granularity: Granularity = GRANULARITIES.load(task.method.granularity)
    return granularity.prune(task) if config.step is None else in_steps(task, granularity)


def check_budget(model: ForecasterConfig, config: PruneConfig, *, cost: Cost, weight_cost: WeightCost) -> None:
    """Checks that a model of this config can lose as much as is asked for, whatever its weights: before it is trained.

    Raises:
        UserError: when it cannot, with the most that it can.
    """
    method: Method = METHODS.load(config.method)
    granularity: Granularity = GRANULARITIES.load(method.granularity)
    if granularity.check is not None:
        granularity.check(
            Task(
                model=blank(model),
                config=config,
                method=method,
                statistics=Statistics(seed=0),
                cost=cost,
                weight_cost=weight_cost,
                masks={},
            )
        )
