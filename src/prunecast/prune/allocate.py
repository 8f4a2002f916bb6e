"""Scores and a count to what goes and what stays. Pure: nothing here knows a model.

Ties are broken by index: by the order of the names, then by the flat position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor

import torch
from torch import Tensor

from prunecast.prune.methods import Masks, Scores, UnitRequest

ElementAllocation = Callable[[Scores, int], Masks]
"""(scores, count) -> masks with exactly `count` False. A score of -inf marks a weight that is gone already."""

UnitAllocation = Callable[[Scores, UnitRequest], "Order"]
"""(scores of units, what is asked for) -> the order in which they go, all but those that have to stay."""


def global_masks(scores: Scores, count: int) -> Masks:
    """Removes the `count` lowest scores of all parameters together."""
    kept = ~lowest(torch.cat([score.flatten() for score in scores.values()]), count)
    parts = kept.split_with_sizes([score.numel() for score in scores.values()])
    return {name: part.clone().view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def layer_masks(scores: Scores, count: int) -> Masks:
    """Removes the lowest scores of each parameter, the same share of each (more where more is gone already)."""
    gone = [int(score.isneginf().sum()) for score in scores.values()]
    counts = shares_of([score.numel() for score in scores.values()], count, gone)
    return {
        name: ~lowest(score.flatten(), share).view_as(score)
        for (name, score), share in zip(scores.items(), counts, strict=True)
    }


def row_masks(scores: Scores, count: int) -> Masks:
    """Removes the lowest scores of each row (of the first dimension) of each parameter, the same share of each row."""
    rows = [row.flatten() for score in scores.values() for row in (score if score.dim() > 1 else score[None])]
    counts = shares_of([row.numel() for row in rows], count, [int(row.isneginf().sum()) for row in rows])
    kept = torch.cat([~lowest(row, share) for row, share in zip(rows, counts, strict=True)])
    parts = kept.split_with_sizes([score.numel() for score in scores.values()])
    return {name: part.clone().view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def lamp_masks(scores: Scores, count: int) -> Masks:
    """Removes the lowest LAMP scores of all parameters together; `scores` are magnitudes."""
    return global_masks({name: lamp(score) for name, score in scores.items()}, count)


def lamp(score: Tensor) -> Tensor:
    """Returns LAMP scores: a weight's square over the sum of the squares of all of its layer that are no smaller.

    Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning", equation 4: of equal weights the first
    counts as the smallest. What is gone (-inf) stays so.
    """
    order = score.flatten().argsort(stable=True)
    squares = score.flatten()[order].clamp(min=0).double().square()
    no_smaller = squares.flip(0).cumsum(0).flip(0)
    shares = torch.where(no_smaller > 0, squares / no_smaller, 0.0)
    return torch.empty_like(shares).scatter(0, order, shares).view_as(score).masked_fill(score.isneginf(), -torch.inf)


def erk_masks(scores: Scores, count: int) -> Masks:
    """Removes the lowest scores of each parameter, wide ones more (Erdos-Renyi kernel).

    The density of a layer is in proportion to the sum of its dimensions over their product (inputs, outputs and, of
    a convolution, its kernel), and at most 1: Evci et al. 2020, "Rigging the lottery", after Mocanu et al. 2018. What
    cannot stay since it is gone is spread over the others likewise.
    """
    weights = [sum(score.shape) / score.numel() for score in scores.values()]
    return _density_masks(scores, count, lambda level: [level * weight for weight in weights])


def owl_masks(scores: Scores, count: int, *, outlier: float = 5.0, spread: float = 0.08) -> Masks:
    """Removes the lowest scores of each parameter, fewer where more of them are outliers.

    Yin et al. 2023, "Outlier weighed layerwise sparsity", with Wanda's scores: a layer's share of scores above
    `outlier` times their mean, mapped to -spread ... spread over the layers, is added to a density common to all.
    Layers of unlike size have the common density that meets the budget, in place of their plain mean.

    Args:
        scores: of the weights; abs(w) times the norm of what they read in the paper.
        count: of weights to be removed.
        outlier: M of the paper.
        spread: lambda of the paper: how far densities lie from the common one at most.
    """
    ratios = [
        float((score > outlier * score.clamp(min=0).double().mean()).double().mean()) for score in scores.values()
    ]
    low, range_ = min(ratios), max(ratios) - min(ratios)
    shifts = [2 * spread * (ratio - low) / range_ if range_ else 0.0 for ratio in ratios]
    return _density_masks(scores, count, lambda level: [level - 2 * spread + shift for shift in shifts])


def _density_masks(scores: Scores, count: int, densities: Callable[[float], Sequence[float]]) -> Masks:
    """Removes the lowest scores of each parameter at densities that grow with a level, which is solved for."""
    sizes = [score.numel() for score in scores.values()]
    most = [size - int(score.isneginf().sum()) for size, score in zip(sizes, scores.values(), strict=True)]

    def kept(level: float) -> list[float]:
        wanted = zip(densities(level), sizes, most, strict=True)
        return [min(max(0.0, density * size), float(cap)) for density, size, cap in wanted]

    low, high, total = 0.0, 1.0, sum(sizes) - count
    while sum(kept(high)) < min(total, sum(most)) - 1e-6:
        high *= 2
    for _ in range(100):  # halving until nothing moves
        middle = (low + high) / 2
        low, high = (middle, high) if sum(kept(middle)) < total else (low, middle)
    numbers = _whole(kept(high), total, most)
    return {
        name: ~lowest(score.flatten(), size - number).view_as(score)
        for (name, score), size, number in zip(scores.items(), sizes, numbers, strict=True)
    }


def _whole(amounts: Sequence[float], total: int, most: Sequence[int]) -> list[int]:
    """Rounds amounts that add up to a total into whole numbers that do, none above its most."""
    numbers = [floor(amount + 1e-6) for amount in amounts]
    by_remainder = sorted(range(len(amounts)), key=lambda place: -(amounts[place] - numbers[place]))
    for place in by_remainder:
        if sum(numbers) < total and numbers[place] < most[place]:
            numbers[place] += 1
    return numbers


def lowest(values: Tensor, count: int) -> Tensor:
    """Marks the `count` lowest of the values (N,), the first of equal ones."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold = values.kthvalue(count).values  # a selection: sorting ten million weights takes ten times as long
    marked = values < threshold
    equal = (values == threshold).nonzero().squeeze(1)
    marked[equal[: count - int(marked.sum())]] = True
    return marked


def shares_of(sizes: Sequence[int], count: int, least: Sequence[int]) -> list[int]:
    """Splits `count` in proportion to the sizes; one whose share is below its least gets that, the others the rest."""
    settled: dict[int, int] = {}
    while True:
        others = [place for place in range(len(sizes)) if place not in settled]
        shares = largest_remainder([sizes[place] for place in others], count - sum(settled.values()))
        short = {place: least[place] for place, share in zip(others, shares, strict=True) if share < least[place]}
        if not short:
            settled |= dict(zip(others, shares, strict=True))
            return [settled[place] for place in range(len(sizes))]
        settled |= short


def largest_remainder(sizes: Sequence[int], count: int) -> list[int]:
    """Splits `count` in proportion to the sizes into whole numbers that add up to it (Hamilton's method)."""
    total = sum(sizes)
    shares = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda place: -(sizes[place] * count % total))
    for place in by_remainder[: count - sum(shares)]:
        shares[place] += 1
    return shares


def uniform_order(scores: Scores, request: UnitRequest) -> Order:
    """Every group loses the same share."""
    return removal_order(uniform_priorities(scores), request.minimum)


def global_order(scores: Scores, request: UnitRequest) -> Order:
    """The lowest scores go first, wherever they are."""
    return removal_order(global_priorities(scores), request.minimum)


def uniform_priorities(scores: Scores) -> Scores:
    """Every group loses the same share: the unit of rank r (from 0) among n has priority (r + 1) / n."""
    ranks = {name: score.argsort(stable=True).argsort() for name, score in scores.items()}
    return {name: (rank + 1).double() / rank.numel() for name, rank in ranks.items()}


def global_priorities(scores: Scores) -> Scores:
    """The lowest scores go first, wherever they are: groups lose what they can spare."""
    return {name: score.double() for name, score in scores.items()}


@dataclass(frozen=True)
class Order:
    """The one order in which units go. `group` (M,) and `unit` (M,) name them; `sizes` are those of all groups."""

    sizes: Mapping[str, int]
    group: Tensor
    unit: Tensor

    def __len__(self) -> int:
        return len(self.unit)

    def keep(self, count: int) -> dict[str, Tensor]:
        """Returns what stays once the first `count` units are gone; a group that loses none is not named."""
        group, unit = self.group[:count], self.unit[:count]
        kept = {}
        for place, (name, size) in enumerate(self.sizes.items()):
            stays = torch.ones(size, dtype=torch.bool)
            stays[unit[group == place]] = False
            if not stays.all():
                kept[name] = stays.nonzero().squeeze(1)
        return kept


def removal_order(priorities: Scores, minimum: Mapping[str, int]) -> Order:
    """Orders the units by priority; the last `minimum` of each group never go."""
    leaving = {
        name: priority.argsort(stable=True)[: max(0, priority.numel() - minimum[name])]
        for name, priority in priorities.items()
    }
    priority = torch.cat([priorities[name][units] for name, units in leaving.items()])
    group = torch.cat([torch.full_like(units, place) for place, units in enumerate(leaving.values())])
    order = priority.argsort(stable=True)
    sizes = {name: priority.numel() for name, priority in priorities.items()}
    return Order(sizes, group[order], torch.cat(list(leaving.values()))[order])
