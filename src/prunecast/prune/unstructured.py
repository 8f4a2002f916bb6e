"""Granularity `element`: single weights become zero; the tensors keep their shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.prune.allocate import ElementAllocation
from prunecast.prune.budget import budget_for, nearest_count
from prunecast.prune.masks import apply_masks
from prunecast.prune.methods import Granularity, Masks, Pruned, Score, Task
from prunecast.registry import ALLOCATIONS, SCORES


def prune_elements(task: Task) -> Pruned:
    """Returns a copy of the model in which masks hold exactly the requested count of weights at zero.

    Of operations, the count is the one whose MACs come nearest to the request.

    Raises:
        UserError: on a budget that cannot be met, or an option that has no meaning here.
    """
    task.refuse("kinds")
    names = candidates(task)
    score: Score = SCORES.load(task.method.score)
    allocate: ElementAllocation = ALLOCATIONS.load(task.method.allocation)
    given = score(task.model, task.statistics)
    scores = {name: _ranked(name, given[name], task) for name in names}
    size = sum(score.numel() for score in scores.values())
    most, gone = size - 1, sum(int(score.isneginf().sum()) for score in scores.values())  # at least one weight stays
    if task.of == "operations":
        prices = task.weight_cost(task.model)
        saved = cache(lambda count: worth(allocate(scores, count), prices))
        budget = budget_for(task.of, task.cost(task.model.config), task.config.sparsity)
        budget.check(saved(most), saved(gone))
        masks = allocate(scores, nearest_count(saved, max(gone, 1), most, budget.requested))
        realised = round(worth(masks, prices))
    else:
        total = size if task.of == "prunable" else sum(parameter.numel() for parameter in task.model.parameters())
        budget = budget_for(task.of, total, task.config.sparsity)
        budget.check(most, gone)
        masks = allocate(scores, budget.requested)
        realised = sum(zeros_in(masks).values())
    model = copy.deepcopy(task.model)
    apply_masks(model, masks)
    return Pruned(model, masks, budget.outcome(task.method.name, realised, removed_weights=zeros_in(masks)))


def candidates(task: Task) -> tuple[str, ...]:
    """Returns the names of the parameters whose weights may go.

    Raises:
        UserError: when there are none, or when masks hold a parameter that is not among them.
    """
    model = task.model
    if task.config.candidates == "study":
        names = model.paper_candidates()
    else:
        spared = model.output_layer() if task.config.candidates == "body" else ()
        names = tuple(name for name in model.prunable() if name not in spared)
    if not names:
        raise UserError(f"model {model.config.name!r} has no weights to prune")
    foreign = sorted(task.masks.keys() - set(names))
    if foreign:
        raise UserError(f"masks hold {foreign[0]!r}, which is no candidate; use prune.candidates=all, as before")
    return names


def _ranked(name: str, score: Tensor, task: Task) -> Tensor:
    """Returns the score with what is gone already first (-inf), then what is zero anyway, then the rest."""
    weight, mask = task.model.get_parameter(name), task.masks.get(name)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    if not all(extreme.isfinite() for extreme in score.aminmax()):
        raise UserError(f"cannot prune {name!r}: its scores are not finite, as after a training that diverged")
    if weight.count_nonzero() < weight.numel():
        score = score.masked_fill(weight == 0, torch.finfo(score.dtype).min)
    return score if mask is None else score.masked_fill(~mask.to(score.device), -torch.inf)


def worth(masks: Masks, prices: Mapping[str, float]) -> float:
    """Returns the MACs that masks save; a parameter without a price takes part in no product."""
    return math.fsum(prices.get(name, 0.0) * zeros for name, zeros in zeros_in(masks).items())


def zeros_in(masks: Masks) -> dict[str, int]:
    """Returns how many weights of each parameter the masks remove."""
    return {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}


ELEMENT = Granularity(prune=prune_elements)
