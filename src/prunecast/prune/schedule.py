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
    total = first.outcome.total
    for number in range(2, count + 1):
        rest = _rest(last.outcome)
        missing = round(config.sparsity * number / count * total) - (total - rest)
        if missing > 0:  # the step before may have gone further than was asked for, by less than a unit
            last = granularity.prune(replace(_asking(task, missing / rest), model=last.model, masks=last.masks))
    sizes = {name: size for name, (_, size) in first.outcome.kept_units.items()}
    whole = {
        "total": total,
        "requested": round(config.sparsity * total),
        "realised": total - _rest(last.outcome) if sizes else last.outcome.realised,
        "kept_units": {name: (last.outcome.kept_units[name][0], size) for name, size in sizes.items()},
    }
    return replace(last, outcome=last.outcome.model_copy(update=whole))


def _asking(task: Task, share: float) -> Task:
    return replace(task, config=task.config.model_copy(update={"sparsity": share}))


def _rest(outcome: Pruning) -> int:
    """Returns how much there is to take shares of: single weights that are zero still count, units that went do not."""
    return outcome.total - outcome.realised if outcome.kept_units else outcome.total
