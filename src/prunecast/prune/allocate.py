"""Scores and a count to what goes and what stays. Pure: nothing here knows a model.

Ties are broken by index: by the order of the names, then by the flat position.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunecast.prune.methods import Masks, Scores

ElementAllocation = Callable[[Scores, int], Masks]
"""(scores, count) -> masks with exactly `count` False. A score of -inf marks a weight that is gone already."""

UnitAllocation = Callable[[Scores], Scores]
"""Scores of units -> priorities: over all groups, the units of lowest priority go first."""


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
