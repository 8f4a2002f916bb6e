"""Pruning in steps: a little at a time, the scores renewed in between, without training.

arXiv 2412.12883 cut its structures in 50 such steps, with the iterative mode of Torch-Pruning.
"""

from __future__ import annotations

import math
from dataclasses import replace

from prunecast.errors import UserError
from prunecast.prune.methods import Granularity, Pruned, Task
from prunecast.records import Pruning


def in_steps(task: Task, granularity: Granularity) -> Pruned:
    """Returns what the last step leaves; its outcome counts from the model that the first one was given.

    Raises:
        UserError: on a budget that cannot be met, or when whole layers may go: they are counted anew at each step.
    """
    config, step = task.config, task.config.step
    assert step is not None
    if "layer" in config.kinds:
        raise UserError("prune.step: expected prune.kinds without layer, found it; remove layers at once")
    count = math.ceil(config.sparsity / step - 1e-9)
    first = last = granularity.prune(_asking(task, config.sparsity / count))
    for number in range(2, count + 1):
        share = _share_of_rest(first.outcome, last.outcome, config.sparsity * number / count)
        if share > 0:  # the step before may have gone further than was asked for, by less than a unit
            last = granularity.prune(replace(_asking(task, share), model=last.model, masks=last.masks))
    return replace(last, outcome=_whole(task, first.outcome, last.outcome))


def _asking(task: Task, share: float) -> Task:
    return replace(task, config=task.config.model_copy(update={"sparsity": share}))


def _share_of_rest(first: Pruning, last: Pruning, share: float) -> float:
    """Returns which share of what is there now must go, so that a share of the first model is gone."""
    rest = _rest(last)
    missing = round(share * first.total) - (first.total - rest)
    return max(0.0, missing / rest)


def _rest(outcome: Pruning) -> int:
    """Returns how much there is to take shares of: single weights that are zero still count, units that went do not."""
    return outcome.total - outcome.realised if outcome.kept_units else outcome.total


def _whole(task: Task, first: Pruning, last: Pruning) -> Pruning:
    sizes = {name: size for name, (_, size) in first.kept_units.items()}
    return last.model_copy(
        update={
            "total": first.total,
            "requested": round(task.config.sparsity * first.total),
            "realised": first.total - _rest(last) if sizes else last.realised,
            "kept_units": {name: (last.kept_units[name][0], size) for name, size in sizes.items()},
        }
    )
