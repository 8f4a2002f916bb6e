"""Granularity `element`: single weights become zero; the tensors keep their shapes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from prunecast.errors import UserError
from prunecast.prune.allocate import ElementAllocation
from prunecast.prune.budget import Budget, budget_for, nearest_count
from prunecast.prune.masks import apply_masks
from prunecast.prune.methods import Granularity, Masks, Pruned, Score, Scores, Task
from prunecast.registry import ALLOCATIONS, SCORES

Prices = Mapping[str, float]
"""Parameter name -> what removing one of its weights saves, in units of the budget."""


def prune_elements(task: Task) -> Pruned:
    """Returns a copy of the model in which masks hold exactly the requested count of weights at zero.

    Of operations, the count is the one whose MACs come nearest to the request.

    Raises:
        UserError: on a budget that cannot be met, or an option that has no meaning here.
    """
    task.refuse("kinds")
    scores = _scores(task, candidates(task))
    allocate: ElementAllocation = ALLOCATIONS.load(task.method.allocation)
    prices = task.weight_cost(task.model) if task.of == "operations" else dict.fromkeys(scores, 1.0)
    budget = budget_for(task.of, _total(task, scores), task.config.sparsity)
    masks = allocate(scores, _count(budget, scores, _savings(budget, scores, prices, allocate)))
    model = copy.deepcopy(task.model)
    apply_masks(model, masks)
    realised = round(_worth(masks, prices))
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


def _scores(task: Task, names: tuple[str, ...]) -> Scores:
    score: Score = SCORES.load(task.method.score)
    scores = score(task.model, task.statistics)
    return {name: _ranked(name, scores[name], task) for name in names}


def _ranked(name: str, score: Tensor, task: Task) -> Tensor:
    """Returns the score with what is gone already first (-inf), then what is zero anyway, then the rest."""
    weight, mask = task.model.get_parameter(name), task.masks.get(name)
    score = score.to(torch.promote_types(score.dtype, torch.float32))
    if not all(extreme.isfinite() for extreme in score.aminmax()):
        raise UserError(f"cannot prune {name!r}: its scores are not finite, as after a training that diverged")
    if weight.count_nonzero() < weight.numel():
        score = score.masked_fill(weight == 0, torch.finfo(score.dtype).min)
    return score if mask is None else score.masked_fill(~mask.to(score.device), -torch.inf)


def _total(task: Task, scores: Scores) -> int:
    if task.of == "operations":
        return task.cost(task.model.config)
    if task.of == "model":
        return sum(parameter.numel() for parameter in task.model.parameters())
    return _size(scores)


def _savings(budget: Budget, scores: Scores, prices: Prices, allocate: ElementAllocation) -> Callable[[int], float]:
    """Returns what removing a count of weights saves, in units of the budget."""
    if budget.of != "operations":
        return float
    return cache(lambda count: _worth(allocate(scores, count), prices))


def _worth(masks: Masks, prices: Prices) -> float:
    # A parameter without a price takes part in no product.
    return math.fsum(prices.get(name, 0.0) * zeros for name, zeros in zeros_in(masks).items())


def _count(budget: Budget, scores: Scores, saved: Callable[[int], float]) -> int:
    gone = sum(int(score.isneginf().sum()) for score in scores.values())
    most = _size(scores) - 1  # at least one weight stays
    budget.refuse_above(saved(most))
    budget.refuse_below(saved(gone))
    if budget.of == "operations":
        return nearest_count(saved, max(gone, 1), most, budget.requested)
    return budget.requested


def zeros_in(masks: Masks) -> dict[str, int]:
    """Returns how many weights of each parameter the masks remove."""
    return {name: mask.numel() - int(mask.sum()) for name, mask in masks.items()}


def _size(scores: Scores) -> int:
    return sum(score.numel() for score in scores.values())


ELEMENT = Granularity(prune=prune_elements)
